//! Which instructions this CPU has.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set that the kernels are written for, the slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// What every CPU has.
    Portable,
    /// Arm's vectors of four. Bytes are multiplied in 16 bits.
    Neon,
    /// NEON with products of bytes, four to a word.
    NeonDot,
    /// NEON with products of bytes and of bf16.
    NeonBf16,
    /// AVX2 with fused multiply-add: vectors of eight.
    Avx2,
    /// AVX-512F: vectors of sixteen. Bytes are multiplied as by AVX2.
    Avx512,
    /// AVX-512 with products of bytes: vectors of sixteen words.
    Avx512Vnni,
    /// AVX-512 with products of bytes and of bf16.
    Avx512Bf16,
}

/// What [`Level::limit`] chose; more than any level where it was not called.
static LIMIT: AtomicU8 = AtomicU8::new(u8::MAX);

impl Level {
    /// All levels, the slowest first.
    pub const ALL: [Self; 8] = [
        Self::Portable,
        Self::Neon,
        Self::NeonDot,
        Self::NeonBf16,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Avx512Bf16,
    ];

    /// The level that layers compute with: the fastest of this CPU, or what [`limit`](Self::limit) chose.
    pub fn detected() -> Self {
        static FASTEST: OnceLock<Level> = OnceLock::new();
        let first = |suits: &dyn Fn(Self) -> bool| {
            let mut levels = Self::ALL.into_iter().rev();
            levels
                .find(|it| it.is_available() && suits(*it))
                .unwrap_or(Self::Portable)
        };
        match LIMIT.load(Ordering::Relaxed) {
            u8::MAX => *FASTEST.get_or_init(|| first(&|it| !it.is_slow())),
            limit => first(&|it| it as u8 <= limit),
        }
    }

    /// Whether this CPU has the level's instructions.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => {
                Self::Neon.is_available() && std::arch::is_aarch64_feature_detected!("dotprod")
            }
            #[cfg(target_arch = "aarch64")]
            Self::NeonBf16 => {
                Self::NeonDot.is_available() && std::arch::is_aarch64_feature_detected!("bf16")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available() && std::arch::is_x86_feature_detected!("avx512f")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                Self::Avx512.is_available() && std::arch::is_x86_feature_detected!("avx512vnni")
            }
            // Every CPU that has the latter has the former.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => {
                Self::Avx512Vnni.is_available() && std::arch::is_x86_feature_detected!("avx512bf16")
            }
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// Whether products of bf16 are an instruction: inputs become bf16 too.
    pub(super) fn multiplies_pairs(self) -> bool {
        matches!(self, Self::NeonBf16 | Self::Avx512Bf16)
    }

    /// Whether this CPU is faster one level below.
    ///
    /// Intel's cores start a product of bf16 every other cycle, but four of f32 meanwhile: with weights that are widened on
    /// the way, which are read as fast, and inputs that are not rounded.
    fn is_slow(self) -> bool {
        self == Self::Avx512Bf16 && is_intel()
    }

    /// Lets the whole process compute with the highest level that is not above this one and that the CPU has: to test, or to
    /// compare.
    ///
    /// Results change in their last bits from one level to another.
    pub fn limit(self) {
        LIMIT.store(self as u8, Ordering::Relaxed);
    }
}

#[cfg(target_arch = "x86_64")]
fn is_intel() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx]
        .map(u32::to_le_bytes)
        .as_flattened()
        == b"GenuineIntel"
}

#[cfg(not(target_arch = "x86_64"))]
fn is_intel() -> bool {
    false
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Neon => "NEON",
            Self::NeonDot => "NEON dot product",
            Self::NeonBf16 => "NEON BF16",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
            Self::Avx512Vnni => "AVX-512 VNNI",
            Self::Avx512Bf16 => "AVX-512 BF16",
        })
    }
}

/// Calls `function::<S>(arguments)` with the vectors `S` of a level, compiled for its instruction set.
///
/// `run_on!(level, pairs: ..)` is for functions that multiply pairs of bf16, and `run_on!(level, bytes: ..)` for those that
/// multiply bytes. All others have the same instructions on every level of AVX-512, and on every level of NEON, and are
/// compiled once for each.
///
/// # Panics
///
/// If this CPU does not have the level.
macro_rules! run_on {
    ($level:expr, pairs: $($call:tt)*) => {
        $crate::kernel::level::compiled_for! {
            $level, [$($call)*],
            "x86_64": Avx512Bf16 = "avx512f,avx512bf16", Avx512Bf16;
            "x86_64": Avx512 | Avx512Vnni = "avx512f", Avx512;
            "x86_64": Avx2 = "avx2,fma", Avx2;
            "aarch64": NeonBf16 = "neon,bf16", NeonBf16;
            "aarch64": Neon | NeonDot = "neon", Neon
        }
    };
    // Without products of bytes, AVX-512F has nothing for them that AVX2 does not have.
    ($level:expr, bytes: $($call:tt)*) => {
        $crate::kernel::level::compiled_for! {
            $level, [$($call)*],
            "x86_64": Avx512Vnni | Avx512Bf16 = "avx512f,avx512vnni", Avx512Vnni;
            "x86_64": Avx2 | Avx512 = "avx2,fma", Avx2;
            "aarch64": NeonDot | NeonBf16 = "neon,dotprod", NeonDot;
            "aarch64": Neon = "neon", Neon
        }
    };
    ($level:expr, $($call:tt)*) => {
        $crate::kernel::level::compiled_for! {
            $level, [$($call)*],
            "x86_64": Avx512 | Avx512Vnni | Avx512Bf16 = "avx512f", Avx512;
            "x86_64": Avx2 = "avx2,fma", Avx2;
            "aarch64": Neon | NeonDot | NeonBf16 = "neon", Neon
        }
    };
}

/// What [`run_on`] becomes: for each set of vectors the architecture, the levels that use it, and its instruction set.
macro_rules! compiled_for {
    (
        $of:expr, [$function:ident($($argument:ident: $kind:ty),*)],
        $($architecture:literal: $($level:ident)|+ = $features:literal, $lanes:ident);+
    ) => {{
        let level: $crate::kernel::Level = $of;
        assert!(level.is_available(), "this CPU has no {level}");
        // All that the function calls is inlined into this one, and so compiled for the instruction set.
        macro_rules! with {
            ($enabled:literal, $vectors:ident) => {{
                #[target_feature(enable = $enabled)]
                unsafe fn compiled($($argument: $kind),*) {
                    // SAFETY: this function's caller grants the instruction set.
                    unsafe { $function::<$crate::kernel::lanes::$vectors>($($argument),*) }
                }
                // SAFETY: the CPU has the level, as was asserted, and whoever has one level of x86, or of Arm, has those
                // below.
                unsafe { compiled($($argument),*) }
            }};
        }
        match level {
            $(
                #[cfg(target_arch = $architecture)]
                $($crate::kernel::Level::$level)|+ => with!($features, $lanes),
            )+
            // SAFETY: every CPU can run plain Rust.
            _ => unsafe { $function::<$crate::kernel::lanes::Portable>($($argument),*) },
        }
    }};
}
pub(super) use {compiled_for, run_on};

#[cfg(test)]
mod tests {
    use super::super::lanes::Lanes;
    use super::*;

    /// # Safety
    ///
    /// None is needed; `run_on` calls functions that need some.
    unsafe fn name<S: Lanes>(to: &mut &'static str) {
        let path = std::any::type_name::<S>();
        *to = path.rsplit("::").next().unwrap_or(path);
    }

    /// The vectors of a level, where pairs and bytes are multiplied, and of everything else.
    fn vectors(level: Level) -> [&'static str; 3] {
        let mut names = [""; 3];
        let [pairs, bytes, numbers] = &mut names;
        run_on!(level, pairs: name(pairs: &mut &'static str));
        run_on!(level, bytes: name(bytes: &mut &'static str));
        run_on!(level, name(numbers: &mut &'static str));
        names
    }

    #[test]
    fn a_level_computes_with_the_best_vectors_that_it_has() {
        for level in Level::ALL.into_iter().filter(|it| it.is_available()) {
            let expected = match level {
                Level::Portable => ["Portable"; 3],
                Level::Neon => ["Neon"; 3],
                Level::NeonDot => ["Neon", "NeonDot", "Neon"],
                Level::NeonBf16 => ["NeonBf16", "NeonDot", "Neon"],
                Level::Avx2 => ["Avx2"; 3],
                Level::Avx512 => ["Avx512", "Avx2", "Avx512"],
                Level::Avx512Vnni => ["Avx512", "Avx512Vnni", "Avx512"],
                Level::Avx512Bf16 => ["Avx512Bf16", "Avx512Vnni", "Avx512"],
            };
            assert_eq!(vectors(level), expected, "{level}");
        }
    }

    #[test]
    fn who_has_a_level_has_those_below() {
        let of_arm = [Level::Neon, Level::NeonDot, Level::NeonBf16];
        let of_x86 = [
            Level::Avx2,
            Level::Avx512,
            Level::Avx512Vnni,
            Level::Avx512Bf16,
        ];
        for levels in [&of_arm[..], &of_x86] {
            assert!(levels.is_sorted());
            assert!(
                levels
                    .iter()
                    .map(|it| it.is_available())
                    .is_sorted_by(|a, b| a >= b)
            );
        }
        assert!(Level::Portable.is_available() && Level::detected().is_available());
    }
}
