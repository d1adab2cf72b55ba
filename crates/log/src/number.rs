//! Times and numbers as JSON holds them, without loss.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A time, or a span of it, as ROS 2 writes one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Time {
    /// Whole seconds.
    pub sec: u64,
    /// Nanoseconds beyond them, below 10⁹.
    pub nanosec: u32,
}

impl From<Duration> for Time {
    fn from(time: Duration) -> Self {
        Self {
            sec: time.as_secs(),
            nanosec: time.subsec_nanos(),
        }
    }
}

impl From<Time> for Duration {
    fn from(time: Time) -> Self {
        // What was read is below a second; a caller's nanoseconds may carry, and then there is an end of time.
        Self::from_secs(time.sec).saturating_add(Self::from_nanos(time.nanosec.into()))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            sec: u64,
            nanosec: u32,
        }
        let Fields { sec, nanosec } = Fields::deserialize(deserializer)?;
        if nanosec >= 1_000_000_000 {
            return Err(de::Error::custom(format_args!(
                "{nanosec} nanoseconds are more than a second"
            )));
        }
        Ok(Self { sec, nanosec })
    }
}

/// A number to the bit, also one that JSON has no digits for: those are strings, as in the JSON of Protocol Buffers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number(pub(crate) f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(value) = *self;
        if value.is_finite() {
            serializer.serialize_f64(value)
        } else if value.is_infinite() {
            serializer.serialize_str(if value > 0.0 { "Infinity" } else { "-Infinity" })
        } else if value.to_bits() == f64::NAN.to_bits() {
            serializer.serialize_str("NaN")
        } else {
            // One of the many others, with its bits.
            serializer.collect_str(&format_args!("NaN:{:016x}", value.to_bits()))
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;

        impl Visitor<'_> for Numbers {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or one of the strings `Infinity`, `-Infinity` and `NaN`")
            }

            fn visit_f64<E>(self, value: f64) -> Result<Number, E> {
                Ok(Number(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                let value = match text {
                    "Infinity" => Some(f64::INFINITY),
                    "-Infinity" => Some(f64::NEG_INFINITY),
                    "NaN" => Some(f64::NAN),
                    _ => text
                        .strip_prefix("NaN:")
                        .and_then(|bits| u64::from_str_radix(bits, 16).ok())
                        .map(f64::from_bits)
                        .filter(|value| value.is_nan()),
                };
                let unknown = || E::invalid_value(de::Unexpected::Str(text), &self);
                value.map(Number).ok_or_else(unknown)
            }
        }

        deserializer.deserialize_any(Numbers)
    }
}

pub(crate) fn numbers<'a>(values: impl IntoIterator<Item = &'a f64>) -> Vec<Number> {
    values.into_iter().copied().map(Number).collect()
}

pub(crate) fn values(numbers: &[Number]) -> Vec<f64> {
    numbers.iter().map(|Number(value)| *value).collect()
}

/// Whole numbers beyond 2⁵³, which other readers of JSON would round: as strings of digits.
pub(crate) mod digits {
    use serde::{Deserialize, Deserializer, Serializer, de};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(crate) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || de::Error::invalid_value(de::Unexpected::Str(&text), &"digits of 64 bits");
        text.parse().map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_number_comes_back_to_the_bit(bits in any::<u64>()) {
            let text = serde_json::to_string(&Number(f64::from_bits(bits))).expect("JSON");
            let Number(back) = serde_json::from_str(&text).expect("it was written so");
            prop_assert_eq!(back.to_bits(), bits, "{}", text);
        }

        #[test]
        fn every_time_comes_back(sec in any::<u64>(), nanosec in 0..1_000_000_000_u32) {
            let time = Time { sec, nanosec };
            let text = serde_json::to_string(&time).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<Time>(&text).expect("it was written so"), time);
            prop_assert_eq!(Time::from(Duration::from(time)), time);
        }
    }

    #[test]
    fn the_numbers_of_javascript_are_strings() {
        let text = serde_json::to_string(&[Number(f64::INFINITY), Number(-0.0), Number(f64::NAN)]);
        assert_eq!(text.expect("JSON"), r#"["Infinity",-0.0,"NaN"]"#);
        assert!(serde_json::from_str::<Number>("\"NaN:3ff0000000000000\"").is_err());
        assert!(serde_json::from_str::<Time>(r#"{"sec":1,"nanosec":1000000000}"#).is_err());
    }
}
