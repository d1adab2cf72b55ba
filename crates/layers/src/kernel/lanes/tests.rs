use proptest::prelude::*;

use super::*;
use crate::kernel::level::run_on;
use crate::kernel::product::tests::levels;

type Words = [u32; LANES];

/// Sums, weights, and four words of inputs.
struct Numbers {
    sums: Words,
    weights: Words,
    inputs: [u32; 4],
}

/// Sums for each of four inputs, and with the input in all places.
struct Found {
    one: [Words; 4],
    splat: [Words; 4],
}

macro_rules! for_each_of_four {
    ($found:expr, $i:ident => $one:expr, $splat:expr) => {
        for_each_of_four!($found, $i => $one, $splat, 0 1 2 3)
    };
    ($found:expr, $i:ident => $one:expr, $splat:expr, $($value:literal)*) => {$({
        const $i: i32 = $value;
        $found.one[$value] = $one;
        $found.splat[$value] = $splat;
    })*};
}

unsafe fn bytes<S: Lanes>(numbers: &Numbers, found: &mut Found) {
    // SAFETY: the caller grants the instruction set; arrays are as long as what is read.
    unsafe {
        let sums = S::load_words(numbers.sums.as_ptr());
        let w = S::load_words(numbers.weights.as_ptr());
        let four = S::load_four(numbers.inputs.as_ptr());
        for_each_of_four!(found, I =>
            words_of::<S>(S::product_of_bytes_with_one::<I>(sums, w, four)),
            words_of::<S>(S::product_of_bytes(sums, w, S::splat_word(numbers.inputs[I as usize]))));
    }
}

unsafe fn shorts<S: Lanes>(numbers: &Numbers, found: &mut Found) {
    // SAFETY: as above.
    unsafe {
        let sums = S::load_words(numbers.sums.as_ptr());
        let w = S::load_words(numbers.weights.as_ptr());
        let four = S::load_four(numbers.inputs.as_ptr());
        for_each_of_four!(found, I =>
            words_of::<S>(S::product_of_shorts_with_one::<I>(sums, w, four)),
            words_of::<S>(S::product_of_shorts(sums, w, S::splat_word(numbers.inputs[I as usize]))));
    }
}

/// Of codes of four bits, without sums: the upper ones by the inputs, and the lower ones by the inputs.
unsafe fn half_bytes<S: Lanes>(numbers: &Numbers, found: &mut Found) {
    // SAFETY: as above.
    unsafe {
        let (w, none) = (S::load_words(numbers.weights.as_ptr()), S::splat_word(0));
        let four = S::load_four(numbers.inputs.as_ptr());
        let (upper, lower) = (S::upper_codes(w), S::lower_codes(w));
        let bits = |sums| words_of::<S>(S::as_words(S::of_codes(sums)));
        for_each_of_four!(found, I =>
            bits(S::product_of_bytes_with_one::<I>(none, upper, four)),
            bits(S::product_of_bytes(none, lower, S::splat_word(numbers.inputs[I as usize]))));
    }
}

unsafe fn floats<S: Lanes>(numbers: &Numbers, found: &mut Found) {
    // SAFETY: as above.
    unsafe {
        let sums = S::as_f32(S::load_words(numbers.sums.as_ptr()));
        let w = S::as_f32(S::load_words(numbers.weights.as_ptr()));
        let four = S::load_four(numbers.inputs.as_ptr());
        let bits = |sums| words_of::<S>(S::as_words(sums));
        for_each_of_four!(found, I =>
            bits(S::mul_add_one::<I>(w, four, sums)),
            bits(S::mul_add(w, S::as_f32(S::splat_word(numbers.inputs[I as usize])), sums)));
    }
}

unsafe fn pairs<S: Lanes>(numbers: &Numbers, found: &mut Found) {
    // SAFETY: as above.
    unsafe {
        let sums = S::as_f32(S::load_words(numbers.sums.as_ptr()));
        let w = S::load_words(numbers.weights.as_ptr());
        let four = S::load_four(numbers.inputs.as_ptr());
        let bits = |sums| words_of::<S>(S::as_words(sums));
        for_each_of_four!(found, I =>
            bits(S::product_of_pairs_with_one::<I>(sums, w, four)),
            bits(S::product_of_pairs(sums, w, S::splat_word(numbers.inputs[I as usize]))));
    }
}

/// What four bytes of weights and four of inputs sum to.
fn sum(weights: [i8; 4], inputs: u32) -> i32 {
    let inputs = inputs.to_le_bytes().map(|x| {
        if SIGNED {
            i32::from(x.cast_signed())
        } else {
            i32::from(x)
        }
    });
    (weights.into_iter().zip(inputs))
        .map(|(w, x)| i32::from(w) * x)
        .sum()
}

/// What numbers and words become.
struct Converted {
    nearest: Words,
    /// The bytes of whole numbers, of which the i-th of each four are those of the i-th row.
    bytes: Words,
    /// One behind the last.
    shorts: [u16; LANES + 1],
    products: Words,
}

unsafe fn convert<S: Lanes>(
    x: &[f32; LANES],
    rows: &[[f32; LANES]; 4],
    words: [&Words; 2],
    to: &mut Converted,
) {
    // SAFETY: the caller grants the instruction set; arrays are as long as what is read and written.
    unsafe {
        to.nearest = words_of::<S>(S::nearest(S::load(x.as_ptr())));
        to.bytes = words_of::<S>(S::words_of_bytes(rows.map(|row| S::load(row.as_ptr()))));
        let [a, b] = words.map(|it| S::load_words(it.as_ptr()));
        S::store_shorts(to.shorts.as_mut_ptr(), a);
        to.products = words_of::<S>(S::mul_words(a, b));
    }
}

fn nothing() -> Found {
    Found {
        one: [[0; LANES]; 4],
        splat: [[0; LANES]; 4],
    }
}

/// Any words, of ends and zeros in particular.
fn words() -> impl Strategy<Value = u32> {
    let bytes = prop_oneof![2 => any::<u8>(), 1 => prop_oneof![Just(0_u8), Just(127), Just(128), Just(255)]];
    prop::array::uniform4(bytes).prop_map(u32::from_le_bytes)
}

/// Any two shorts, and ends in particular.
fn two_shorts() -> impl Strategy<Value = u32> {
    let shorts =
        prop_oneof![2 => any::<i16>(), 1 => prop_oneof![Just(i16::MIN), Just(i16::MAX), Just(-1)]];
    let bits = |x: i16| u32::from(x.cast_unsigned());
    (shorts.clone(), shorts).prop_map(move |(a, b)| bits(a) | bits(b) << 16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn products_of_shorts_are_exact(
        sums in prop::array::uniform16(any::<u32>()), weights in prop::array::uniform16(two_shorts()),
        inputs in prop::array::uniform4(two_shorts()),
    ) {
        let numbers = &Numbers { sums, weights, inputs };
        for level in levels() {
            let mut found = nothing();
            let to = &mut found;
            run_on!(level, bytes: shorts(numbers: &Numbers, to: &mut Found));
            for (i, x) in inputs.into_iter().enumerate() {
                let expected: Words = std::array::from_fn(|lane| {
                    let halves = |word: u32| [word as i16, (word >> 16) as i16].map(i64::from);
                    let ([a, b], [c, d]) = (halves(weights[lane]), halves(x));
                    sums[lane].wrapping_add((a * c + b * d) as u32)
                });
                prop_assert_eq!(found.one[i], expected, "{}", level);
                prop_assert_eq!(found.splat[i], expected, "{}", level);
            }
        }
    }

    /// Halves go to the even neighbour.
    #[test]
    fn numbers_and_words_become_others_exactly(
        x in prop::array::uniform16(prop_oneof![-4e6..4e6_f32, (-4000..4000).prop_map(|x| x as f32 / 2.0)]),
        codes in prop::array::uniform4(prop::array::uniform16(0..=255_i16)),
        a in prop::array::uniform16(any::<u32>()), b in prop::array::uniform16(any::<u32>()),
    ) {
        let least = if SIGNED { -128 } else { 0 };
        let rows = &codes.map(|row| row.map(|code| f32::from(code + least)));
        let (x, words) = (&x, [&a, &b]);
        for level in levels() {
            let mut found = Converted {
                nearest: [0; LANES],
                bytes: [0; LANES],
                shorts: [7; LANES + 1],
                products: [0; LANES],
            };
            let to = &mut found;
            run_on!(
                level,
                convert(x: &[f32; LANES], rows: &[[f32; LANES]; 4], words: [&Words; 2], to: &mut Converted)
            );
            prop_assert_eq!(found.shorts[LANES], 7, "{}", level);
            for i in 0..LANES {
                let nearest = x[i].round_ties_even() as i32;
                prop_assert_eq!(found.nearest[i].cast_signed(), nearest, "{}: {}", level, x[i]);
                let bytes = codes.map(|row| (row[i] + least) as u8);
                prop_assert_eq!(found.bytes[i].to_le_bytes(), bytes, "{}", level);
                prop_assert_eq!(found.shorts[i], a[i] as u16, "{}", level);
                prop_assert_eq!(found.products[i], a[i].wrapping_mul(b[i]), "{}", level);
            }
        }
    }

    /// As whole numbers of 32 bits, whose sums begin anew beyond the last.
    #[test]
    fn products_of_bytes_are_exact(
        sums in prop::array::uniform16(any::<u32>()), weights in prop::array::uniform16(words()),
        inputs in prop::array::uniform4(words()),
    ) {
        // No weight is -128.
        let weights = weights.map(|w| u32::from_le_bytes(w.to_le_bytes().map(|w| if w == 128 { 127 } else { w })));
        let numbers = &Numbers { sums, weights, inputs };
        for level in levels() {
            let mut found = nothing();
            let to = &mut found;
            run_on!(level, bytes: bytes(numbers: &Numbers, to: &mut Found));
            for (i, x) in inputs.into_iter().enumerate() {
                let expected: Words = std::array::from_fn(|lane| {
                    let w = weights[lane].to_le_bytes().map(u8::cast_signed);
                    sums[lane].wrapping_add(sum(w, x).cast_unsigned())
                });
                prop_assert_eq!(found.one[i], expected, "{}", level);
                prop_assert_eq!(found.splat[i], expected, "{}", level);
            }
        }
    }

    #[test]
    fn products_of_half_bytes_are_exact(
        weights in prop::array::uniform16(words()), inputs in prop::array::uniform4(words()),
    ) {
        let numbers = &Numbers { sums: [0; LANES], weights, inputs };
        for level in levels() {
            let mut found = nothing();
            let to = &mut found;
            run_on!(level, bytes: half_bytes(numbers: &Numbers, to: &mut Found));
            for (i, x) in inputs.into_iter().enumerate() {
                for (lane, w) in weights.into_iter().enumerate() {
                    let of = |half: fn(i8) -> i8| sum(w.to_le_bytes().map(|w| half(w.cast_signed())), x) as f32;
                    let (upper, lower) = (of(|w| w >> 4), of(|w| w << 4 >> 4));
                    prop_assert_eq!(found.one[i][lane], (16.0 * upper).to_bits(), "{}", level);
                    prop_assert_eq!(found.splat[i][lane], (16.0 * lower).to_bits(), "{}", level);
                }
            }
        }
    }

    /// Which word is taken changes no bit.
    #[test]
    fn one_of_four_is_multiplied_as_any(
        sums in prop::array::uniform16(-10.0..10.0_f32), weights in prop::array::uniform16(-10.0..10.0_f32),
        inputs in prop::array::uniform4(-10.0..10.0_f32),
    ) {
        let numbers = &Numbers {
            sums: sums.map(f32::to_bits),
            weights: weights.map(f32::to_bits),
            inputs: inputs.map(f32::to_bits),
        };
        for level in levels() {
            let mut found = nothing();
            let to = &mut found;
            run_on!(level, floats(numbers: &Numbers, to: &mut Found));
            prop_assert_eq!(found.one, found.splat, "{}", level);
            for (i, x) in inputs.into_iter().enumerate() {
                for lane in 0..LANES {
                    let exact = f64::from(sums[lane]) + f64::from(weights[lane]) * f64::from(x);
                    let y = f64::from(f32::from_bits(found.one[i][lane]));
                    // Rounded once or twice, and no number is larger than 110.
                    prop_assert!((y - exact).abs() <= 110.0 * f64::from(f32::EPSILON), "{level}: {y} is not {exact}");
                }
            }
            // Two neighbours of bf16.
            let pair = |x: f32| x.to_bits() & 0xffff_0000 | (x.to_bits() >> 16 ^ 1);
            let numbers = &Numbers {
                sums: numbers.sums,
                weights: weights.map(pair),
                inputs: inputs.map(pair),
            };
            let to = &mut found;
            run_on!(level, pairs: pairs(numbers: &Numbers, to: &mut Found));
            prop_assert_eq!(found.one, found.splat, "{}: of pairs", level);
        }
    }
}
