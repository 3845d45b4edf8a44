//! The device: which adapter it is of, its limits, and what goes wrong on it.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::shaders::Sums;
use crate::error::{Error, ErrorKind, Result};

/// Environment variable that overrides the choice of adapter: a part of its name, in any case.
pub const ADAPTER_VARIABLE: &str = "LIMBECK_ADAPTER";

/// How long a step may take on a device before it counts as hung.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What is used of devices that have it; the first is without use where no pipelines are kept.
const FEATURES: wgpu::Features = wgpu::Features::PIPELINE_CACHE.union(wgpu::Features::SUBGROUP);

/// A GPU, or what stands for one, as `limbeck devices` lists it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Adapter {
    /// Its name.
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// Name and version of its driver.
    pub driver: String,
    /// The interface that reaches it: `vulkan`, `metal`, `dx12`.
    pub interface: String,
    /// Whether its shaders know 16-bit floats.
    pub f16: bool,
    /// Whether its shaders know subgroups.
    pub subgroups: bool,
    /// Bytes that a shader can see of one buffer.
    pub max_binding: u64,
    /// Bytes of the largest buffer.
    pub max_buffer: u64,
    /// Whether it is what the backend `wgpu` takes.
    pub chosen: bool,
    /// Why.
    pub reason: String,
}

/// The adapters of this machine, and which the backend `wgpu` takes.
pub fn adapters() -> Vec<Adapter> {
    let found = enumerate();
    let wanted = wanted();
    let chosen = choose(&found, wanted.as_deref());
    let describe = |(i, adapter): (usize, &wgpu::Adapter)| {
        let (info, features, limits) = (adapter.get_info(), adapter.features(), adapter.limits());
        let software = info.device_type == wgpu::DeviceType::Cpu;
        let reason = match (Some(i) == chosen, &wanted) {
            (_, Some(name)) => format!("{ADAPTER_VARIABLE} names {name:?}"),
            (true, None) if software => {
                "the only one; the backend cpu is faster than software".to_owned()
            }
            (true, None) => "the first of the best kind".to_owned(),
            (false, None) if software => "software is the last choice".to_owned(),
            (false, None) => "another one goes before".to_owned(),
        };
        Adapter {
            kind: kind(info.device_type),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            interface: info.backend.to_string(),
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroups: features.contains(wgpu::Features::SUBGROUP),
            max_binding: limits.max_storage_buffer_binding_size,
            max_buffer: limits.max_buffer_size,
            chosen: Some(i) == chosen,
            name: info.name,
            reason,
        }
    };
    found.iter().enumerate().map(describe).collect()
}

/// Whether the backend `wgpu` goes before that of the CPU, given [`adapters`]: software does not, unless it is
/// named. A name that no adapter has is taken for one: the backend refuses it.
pub fn prefers_gpu(adapters: &[Adapter]) -> bool {
    prefers(adapters, is_named())
}

pub(super) fn prefers(adapters: &[Adapter], named: bool) -> bool {
    let software = kind(wgpu::DeviceType::Cpu);
    named || adapters.iter().any(|adapter| adapter.chosen && adapter.kind != software)
}

/// Whether the environment names an adapter.
pub(crate) fn is_named() -> bool {
    wanted().is_some()
}

/// The least limits that the backend runs at: those of wgpu's `downlevel_defaults`, but for as many buffers in a
/// shader as WebGPU promises.
pub(super) fn least() -> wgpu::Limits {
    let max_storage_buffers_per_shader_stage =
        wgpu::Limits::default().max_storage_buffers_per_shader_stage;
    wgpu::Limits { max_storage_buffers_per_shader_stage, ..wgpu::Limits::downlevel_defaults() }
}

fn wanted() -> Option<String> {
    std::env::var(ADAPTER_VARIABLE).ok().filter(|name| !name.is_empty())
}

fn enumerate() -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    // Validation of the interface below where its layers are installed and the environment asks for it.
    descriptor.flags = wgpu::InstanceFlags::empty().with_env();
    let instance = wgpu::Instance::new(descriptor);
    ready(instance.enumerate_adapters(wgpu::Backends::all()))
}

fn kind(device: wgpu::DeviceType) -> &'static str {
    match device {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "software",
        wgpu::DeviceType::Other => "other",
    }
}

/// The index of the adapter to take: the one that is wanted, or else the first of the best kind.
fn choose(adapters: &[wgpu::Adapter], wanted: Option<&str>) -> Option<usize> {
    let infos: Vec<_> = adapters.iter().map(wgpu::Adapter::get_info).collect();
    if let Some(wanted) = wanted {
        let wanted = wanted.to_lowercase();
        return infos.iter().position(|info| info.name.to_lowercase().contains(&wanted));
    }
    let rank = |info: &wgpu::AdapterInfo| match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    (0..infos.len()).min_by_key(|i| rank(&infos[*i]))
}

/// Waits for what a native device gives at once.
fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

/// What went wrong beside a call.
#[derive(Debug, Default)]
struct Faults {
    /// The first error that no scope took, until a call reports it.
    first: Mutex<Option<Error>>,
    /// Why the device is lost.
    lost: Mutex<Option<String>>,
}

/// An open device.
#[derive(Debug)]
pub(super) struct Gpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub limits: wgpu::Limits,
    pub sums: Sums,
    pub info: wgpu::AdapterInfo,
    pub description: String,
    faults: Arc<Faults>,
}

impl Gpu {
    /// Opens the adapter that is chosen; `limits` takes the place of the adapter's own.
    ///
    /// # Errors
    /// No adapter, none of the name that is wanted, or one that does not open.
    pub fn open(limits: Option<wgpu::Limits>) -> Result<Gpu> {
        let (adapters, wanted) = (enumerate(), wanted());
        let chosen = choose(&adapters, wanted.as_deref()).and_then(|i| adapters.get(i));
        let adapter = chosen.ok_or_else(|| {
            let message = match &wanted {
                Some(name) => format!("no adapter is called {name:?} ({ADAPTER_VARIABLE})"),
                None => "there is no adapter for Vulkan, Metal or Direct3D 12".to_owned(),
            };
            Error::new(ErrorKind::Unsupported, format!("{message}: use the backend cpu"))
        })?;
        let info = adapter.get_info();
        let limits = limits.unwrap_or_else(|| wgpu::Limits {
            max_buffer_size: adapter.limits().max_buffer_size,
            max_storage_buffer_binding_size: adapter.limits().max_storage_buffer_binding_size,
            ..least()
        });
        let features = FEATURES;
        #[cfg(test)]
        let features = super::tests::checks::features(features);
        let opened = ready(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("limbeck"),
            required_features: adapter.features() & features,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        }));
        let (device, queue) = opened.map_err(|e| {
            Error::new(ErrorKind::Backend, format!("adapter {:?} does not open: {e}", info.name))
        })?;
        let subgroups = device.features().contains(wgpu::Features::SUBGROUP);
        let sums = if subgroups { Sums::Subgroups } else { Sums::Shared };
        let faults = Arc::new(Faults::default());
        let told = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error| told.keep(reported(&error))));
        let told = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            told.lose(format!("{message} ({reason:?})"));
        });
        let kind = kind(info.device_type);
        let description = format!("wgpu ({}, {kind}, {})", info.name, info.backend);
        Ok(Gpu { device, queue, limits, sums, info, description, faults })
    }

    /// Runs what makes things on the device, and gives its errors.
    ///
    /// # Errors
    /// `Memory` where the device has none left, `Backend` for others.
    pub fn scoped<T>(&self, make: impl FnOnce() -> T) -> Result<T> {
        self.faults.check()?;
        let filters = [
            wgpu::ErrorFilter::Internal,
            wgpu::ErrorFilter::Validation,
            wgpu::ErrorFilter::OutOfMemory,
        ];
        let scopes = filters.map(|filter| self.device.push_error_scope(filter));
        let made = make();
        let mut found = None;
        for scope in scopes.into_iter().rev() {
            found = ready(scope.pop()).or(found);
        }
        match found {
            None => Ok(made),
            Some(error) => Err(reported(&error)),
        }
    }

    /// A buffer of so many bytes, rounded up to whole words.
    ///
    /// # Errors
    /// As [`Gpu::scoped`], and `Memory` for a size beyond the device's limit.
    pub fn buffer(
        &self,
        label: &str,
        bytes: usize,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer> {
        let size = (bytes as u64).max(16).next_multiple_of(16);
        if size > self.limits.max_buffer_size {
            let most = self.limits.max_buffer_size;
            let message =
                format!("{label} of {bytes} bytes is beyond the device's largest buffer of {most}");
            return Err(Error::new(ErrorKind::Memory, message));
        }
        self.scoped(|| {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage,
                mapped_at_creation: false,
            })
        })
    }

    /// Waits until a submission is done.
    ///
    /// # Errors
    /// A device that is lost, or that takes too long and is given up.
    pub fn wait(&self, submission: wgpu::SubmissionIndex) -> Result<()> {
        let poll =
            wgpu::PollType::Wait { submission_index: Some(submission), timeout: Some(TIMEOUT) };
        if let Err(error) = self.device.poll(poll) {
            self.faults.lose(format!("a step was not done in {} s: {error}", TIMEOUT.as_secs()));
        }
        self.faults.check()
    }

    /// What a submission wrote to a buffer that can be mapped.
    ///
    /// # Errors
    /// As [`Gpu::wait`].
    pub fn read(
        &self,
        buffer: &wgpu::Buffer,
        bytes: usize,
        submission: wgpu::SubmissionIndex,
        take: impl FnOnce(&[u8]),
    ) -> Result<()> {
        let slice = buffer.slice(..bytes as u64);
        slice.map_async(wgpu::MapMode::Read, |_| {});
        let done = self.wait(submission).and_then(|()| {
            let view = slice.get_mapped_range().map_err(|e| {
                Error::new(ErrorKind::Backend, format!("the device's results cannot be read: {e}"))
            })?;
            take(&view);
            Ok(())
        });
        // Whatever came of it, the buffer is used again.
        buffer.unmap();
        done
    }

    /// Errors that came since the last check.
    ///
    /// # Errors
    /// The first of them.
    pub fn check(&self) -> Result<()> {
        self.faults.check()
    }

    /// Makes the device useless, as one that is lost is.
    #[cfg(test)]
    pub fn destroy(&self) {
        self.device.destroy();
    }
}

impl Faults {
    fn keep(&self, error: Error) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(error);
    }

    fn lose(&self, reason: String) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.get_or_insert(reason);
    }

    fn check(&self) -> Result<()> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = &*lost {
            let message = format!("the device is lost: {reason}; make another engine");
            return Err(Error::new(ErrorKind::Backend, message));
        }
        match self.first.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

fn reported(error: &wgpu::Error) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => {
            Error::new(ErrorKind::Memory, "the device has no memory left")
        }
        other => Error::new(ErrorKind::Backend, format!("the device: {other}")),
    }
}
