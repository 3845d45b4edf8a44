//! Instruction sets: the names in the kernel table, and the tokens that prove that this CPU
//! has one.

/// An instruction set that a kernel is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust; runs everywhere.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and VNNI.
    Avx512Vnni,
    /// [`Isa::Avx512Vnni`] and AVX-512 BF16: of it there are only kernels that have a use for that.
    Avx512Bf16,
    /// AArch64 NEON.
    Neon,
    /// AArch64 NEON with the dot-product instructions.
    NeonDotprod,
    /// AArch64 NEON with the dot-product and the 8-bit integer matrix instructions.
    NeonI8mm,
}

impl Isa {
    /// Every instruction set, best first.
    pub const ALL: &'static [Isa] = &[
        Isa::Avx512Bf16,
        Isa::Avx512Vnni,
        Isa::Avx2,
        Isa::NeonI8mm,
        Isa::NeonDotprod,
        Isa::Neon,
        Isa::Portable,
    ];

    /// The name by which people choose it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512Vnni => "avx512-vnni",
            Isa::Avx512Bf16 => "avx512-bf16",
            Isa::Neon => "neon",
            Isa::NeonDotprod => "neon-dotprod",
            Isa::NeonI8mm => "neon-i8mm",
        }
    }

    /// The instruction set whose kernels it is used with, where it does not have all of its own.
    pub fn base(self) -> Option<Isa> {
        (self == Isa::Avx512Bf16).then_some(Isa::Avx512Vnni)
    }

    /// The instruction set of that name.
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::ALL.iter().copied().find(|isa| isa.name() == name)
    }

    /// Whether this CPU has it.
    pub fn available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Avx512::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Avx512Bf16::new().is_some(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Neon::new().is_some(),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => NeonDotprod::new().is_some(),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => NeonI8mm::new().is_some(),
            _ => false,
        }
    }
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The token of plain Rust.
#[derive(Clone, Copy, Debug)]
pub struct Portable(());

impl Portable {
    /// Always there.
    pub fn new() -> Option<Self> {
        Some(Self(()))
    }

    pub(crate) const TOKEN: Portable = Portable(());
}

/// Proof that this CPU has AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// The token, if this CPU has the features.
    pub fn new() -> Option<Self> {
        (std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("f16c"))
        .then_some(Self(()))
    }

    /// The token without asking the CPU.
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

/// Proof that this CPU has AVX-512 F, BW, VL and VNNI, and what [`Avx2`] proves.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    /// The token, if this CPU has the features.
    pub fn new() -> Option<Self> {
        (Avx2::new().is_some()
            && std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("avx512vnni"))
        .then_some(Self(()))
    }

    /// The token without asking the CPU.
    ///
    /// # Safety
    /// The CPU has the features.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

/// Proof that this CPU has AVX-512 BF16, and what [`Avx512`] proves.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct Avx512Bf16(Avx512);

#[cfg(target_arch = "x86_64")]
impl Avx512Bf16 {
    /// The token, if this CPU has the features.
    pub fn new() -> Option<Self> {
        let has = std::arch::is_x86_feature_detected!("avx512bf16");
        Avx512::new().filter(|_| has).map(Self)
    }

    /// The token without asking the CPU.
    ///
    /// # Safety
    /// The CPU has the features.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        // SAFETY: the caller's contract.
        Self(unsafe { Avx512::assume() })
    }

    /// What it proves besides.
    #[inline(always)]
    pub(crate) fn base(self) -> Avx512 {
        self.0
    }
}

/// A token of AArch64: what it proves, its name, and its features.
#[cfg(target_arch = "aarch64")]
macro_rules! arm_token {
    ($(#[$doc:meta])* $token:ident: $($feature:tt),*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $token(());

        impl $token {
            /// The token, if this CPU has the features.
            pub fn new() -> Option<Self> {
                ($(std::arch::is_aarch64_feature_detected!($feature))&&*).then_some(Self(()))
            }

            /// The token without asking the CPU.
            ///
            /// # Safety
            /// The CPU has the features.
            #[inline(always)]
            pub(crate) unsafe fn assume() -> Self {
                Self(())
            }
        }
    };
}

#[cfg(target_arch = "aarch64")]
arm_token! {
    /// Proof that this CPU has NEON.
    Neon: "neon"
}
#[cfg(target_arch = "aarch64")]
arm_token! {
    /// Proof that this CPU has NEON and its dot-product instructions.
    NeonDotprod: "neon", "dotprod"
}
#[cfg(target_arch = "aarch64")]
arm_token! {
    /// Proof that this CPU has what [`NeonDotprod`] proves and the 8-bit integer matrix instructions.
    NeonI8mm: "neon", "dotprod", "i8mm"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for isa in Isa::ALL {
            assert_eq!(Isa::from_name(isa.name()), Some(*isa));
        }
        assert_eq!(Isa::from_name("mmx"), None);
    }

    #[test]
    fn only_instruction_sets_of_this_architecture_are_available() {
        assert!(Isa::Portable.available());
        for arm in [Isa::Neon, Isa::NeonDotprod, Isa::NeonI8mm] {
            assert!(cfg!(target_arch = "aarch64") || !arm.available(), "{arm}");
        }
        for x86 in [Isa::Avx2, Isa::Avx512Vnni, Isa::Avx512Bf16] {
            assert!(cfg!(target_arch = "x86_64") || !x86.available(), "{x86}");
        }
    }
}
