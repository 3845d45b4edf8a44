//! Every permutation of the shaders validates, has the bindings of the table, and translates.

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

use crate::backend::wgpu::device::least;
use crate::backend::wgpu::shaders::{Access, Shader, Sums};

#[test]
fn every_permutation_translates_to_spirv_msl_and_hlsl() {
    let all = Shader::all();
    let both = [Sums::Shared, Sums::Subgroups];
    for (shader, sums) in all.iter().flat_map(|shader| both.map(|sums| (shader, sums))) {
        let source = shader.source(sums);
        let module = naga::front::wgsl::parse_str(&source)
            .unwrap_or_else(|e| panic!("{shader:?}: {}", e.emit_to_string(&source)));
        // What WebGPU has without features: halves can be unpacked.
        let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        capabilities.set(Capabilities::SUBGROUP, sums == Sums::Subgroups);
        let mut validator = Validator::new(ValidationFlags::all(), capabilities);
        validator.subgroup_stages(ShaderStages::COMPUTE);
        validator.subgroup_operations(SubgroupOperationSet::all());
        let info = validator
            .validate(&module)
            .unwrap_or_else(|e| panic!("{shader:?}: {}", e.emit_to_string(&source)));
        check_bindings(*shader, &module);
        check_workgroups(*shader, &module);

        spv::write_vec(&module, &info, &spv::Options::default(), None)
            .unwrap_or_else(|e| panic!("{shader:?} to SPIR-V: {e}"));
        let options = msl::Options { fake_missing_bindings: true, ..msl::Options::default() };
        let (text, _) = msl::write_string(&module, &info, &options, &Default::default())
            .unwrap_or_else(|e| panic!("{shader:?} to MSL: {e}"));
        assert!(text.contains("kernel void"), "{shader:?}");
        let options = hlsl::Options { fake_missing_bindings: true, ..hlsl::Options::default() };
        let (pipeline, mut text) = (hlsl::PipelineOptions::default(), String::new());
        hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{shader:?} to HLSL: {e}"));
        assert!(text.contains("numthreads"), "{shader:?}");
    }
    let distinct: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len());
}

/// Binding 0 is a uniform, those after it are storage as the table says, and there are no others.
fn check_bindings(shader: Shader, module: &naga::Module) {
    let mut found = Vec::new();
    for (_, variable) in module.global_variables.iter() {
        let Some(binding) = variable.binding else { continue };
        found.push((binding.binding, variable.space));
    }
    found.sort_by_key(|(binding, _)| *binding);
    let storage = shader.bindings().iter().map(|access| naga::AddressSpace::Storage {
        access: match access {
            Access::Read => naga::StorageAccess::LOAD,
            Access::Write => naga::StorageAccess::LOAD | naga::StorageAccess::STORE,
        },
    });
    let wanted: Vec<_> =
        (0..).zip(std::iter::once(naga::AddressSpace::Uniform).chain(storage)).collect();
    assert_eq!(found, wanted, "{shader:?}");
    let most = least().max_storage_buffers_per_shader_stage as usize;
    assert!(shader.bindings().len() <= most, "{shader:?} takes more buffers");
}

/// Groups stay within the least limits.
fn check_workgroups(shader: Shader, module: &naga::Module) {
    let [entry] = module.entry_points.as_slice() else { panic!("{shader:?}: one entry point") };
    let [x, y, z] = entry.workgroup_size;
    let least = least();
    assert!(x * y * z <= least.max_compute_invocations_per_workgroup, "{shader:?}");
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).expect("layouts");
    let shared =
        module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
    let bytes: u32 = shared.map(|(_, v)| layouter[v.ty].size.next_multiple_of(16)).sum();
    assert!(bytes <= least.max_compute_workgroup_storage_size, "{shader:?} shares {bytes} bytes");
}
