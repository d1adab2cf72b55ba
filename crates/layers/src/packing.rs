//! In which precision each layer of a network is packed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{PackReport, Precision};

/// In which precision each layer of a network is packed.
///
/// A [`Precision`] becomes one that leaves to the network what it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackPolicy {
    /// What the weights are stored in.
    pub precision: Precision,
    /// The layers that are packed in f32 in its place: patterns of their names, in which `*` stands for any characters.
    ///
    /// Without a list it is the network's own where weights become [codes](Precision::is_codes): the layers that a pass
    /// suffers from most, or that are not computed in every pass. The network says what these are stored in, f32 or bf16.
    /// Weights in bf16 need none.
    pub keep: Option<Vec<String>>,
    /// More of them, besides those of the list or the network's own.
    pub keep_also: Vec<String>,
}

impl From<Precision> for PackPolicy {
    fn from(precision: Precision) -> Self {
        Self {
            precision,
            keep: None,
            keep_also: Vec::new(),
        }
    }
}

impl PackPolicy {
    /// The first pattern that is no layer's of these names.
    pub fn unmatched<'a>(&'a self, layers: &[String]) -> Option<&'a str> {
        let mut patterns = self.keep.iter().flatten().chain(&self.keep_also);
        let is_unmatched = |it: &&String| !layers.iter().any(|layer| matches(it, layer));
        patterns.find(is_unmatched).map(String::as_str)
    }
}

/// As files keep it: JSON.
#[derive(Serialize, Deserialize)]
struct Text {
    precision: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keep: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    keep_also: Vec<String>,
}

impl fmt::Display for PackPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(&Text {
            precision: self.precision.to_string(),
            keep: self.keep.clone(),
            keep_also: self.keep_also.clone(),
        });
        f.write_str(&text.map_err(|_| fmt::Error)?)
    }
}

impl FromStr for PackPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Text {
            precision,
            keep,
            keep_also,
        } = serde_json::from_str(text)
            .map_err(|error| format!("how it was packed cannot be read: {error}"))?;
        Ok(Self {
            precision: precision.parse()?,
            keep,
            keep_also,
        })
    }
}

/// What becomes of the layers below one place of a network, while it is packed.
///
/// Names are those of fields, and numbers in lists, with dots between: `down_modules.0.resnet.cond_encoder`.
#[derive(Clone, Debug)]
pub struct Packing<'a> {
    policy: &'a PackPolicy,
    /// What the network keeps by itself.
    own: &'a [&'a str],
    /// What that is stored in.
    kept_in: Precision,
    path: String,
}

impl<'a> Packing<'a> {
    /// Begins at the root of a network, with the patterns that it keeps where the policy has none.
    pub fn new(policy: &'a PackPolicy, own: &'a [&'a str]) -> Self {
        Self {
            policy,
            own,
            kept_in: Precision::F32,
            path: String::new(),
        }
    }

    /// The same, but what the network keeps by itself is stored in this precision. What the policy names stays in f32.
    #[must_use]
    pub fn keeping_in(self, kept_in: Precision) -> Self {
        Self { kept_in, ..self }
    }

    /// The place of a member.
    #[must_use]
    pub fn at(&self, name: impl fmt::Display) -> Self {
        let path = match &*self.path {
            "" => name.to_string(),
            path => format!("{path}.{name}"),
        };
        Self { path, ..*self }
    }

    /// What a layer's weights are stored in.
    pub fn of(&self, layer: &str) -> Precision {
        let name = self.at(layer).path;
        let keeps = |pattern: &str| matches(pattern, &name);
        let mut named = self.policy.keep.iter().flatten();
        if named.any(|it| keeps(it)) || self.policy.keep_also.iter().any(|it| keeps(it)) {
            return Precision::F32;
        }
        let has_own = self.policy.keep.is_none() && self.policy.precision.is_codes();
        if has_own && self.own.iter().any(|it| keeps(it)) {
            self.kept_in
        } else {
            self.policy.precision
        }
    }

    /// Packs each of a list.
    pub fn each<'b, T: 'b>(
        &self,
        name: &str,
        items: impl IntoIterator<Item = &'b mut T>,
        pack: impl Fn(&mut T, &Self) -> PackReport,
    ) -> PackReport {
        let list = self.at(name);
        let items = items.into_iter().enumerate();
        items.map(|(i, item)| pack(item, &list.at(i))).sum()
    }
}

/// Whether a name is what a pattern says, from its first character to its last.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(first) else {
        return false;
    };
    // What is between two stars may stand anywhere; the first place leaves the most to what follows.
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = name.find(part) else {
            return false;
        };
        name = &name[at + part.len()..];
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_characters() {
        let name = "down_modules.0.resnet.conv1.conv";
        for pattern in [
            "*",
            name,
            "down*",
            "*conv",
            "*.conv",
            "down_modules.*.conv1.conv",
            "*0*conv1*",
            "*down_modules.0.resnet.conv1.conv*",
            "*resnet*.*",
        ] {
            assert!(matches(pattern, name), "{pattern}");
        }
        for pattern in [
            "",
            "down",
            "conv",
            "*conv1",
            "conv*",
            "*conv1*conv1*",
            "down_modules.0.resnet.conv1.conv*conv",
            "*Conv",
        ] {
            assert!(!matches(pattern, name), "{pattern}");
        }
        assert!(matches("", ""));
        assert!(matches("*", ""));
    }

    #[test]
    fn layers_that_are_kept_are_in_f32() {
        let own = ["*.first", "last"];
        let of = |policy: &PackPolicy, place: &str, layer: &str| {
            let root = Packing::new(policy, &own);
            match place {
                "" => root.of(layer),
                _ => root.at(place).at(3).of(layer),
            }
        };
        let codes = PackPolicy::from(Precision::Int8);
        assert_eq!(of(&codes, "blocks", "first"), Precision::F32);
        assert_eq!(of(&codes, "", "last"), Precision::F32);
        assert_eq!(of(&codes, "", "first"), Precision::Int8);
        // What needs no list has none.
        let bf16 = PackPolicy::from(Precision::Bf16);
        assert_eq!(of(&bf16, "blocks", "first"), Precision::Bf16);
        let chosen = |precision| PackPolicy {
            precision,
            keep: Some(vec!["blocks.3.*".into()]),
            keep_also: vec!["*.also".into()],
        };
        for precision in [Precision::Bf16, Precision::INT4] {
            let policy = chosen(precision);
            assert_eq!(of(&policy, "blocks", "second"), Precision::F32);
            assert_eq!(of(&policy, "others", "also"), Precision::F32);
            assert_eq!(of(&policy, "", "last"), precision);
        }
        let none = PackPolicy {
            precision: Precision::Int8,
            keep: Some(Vec::new()),
            keep_also: Vec::new(),
        };
        assert_eq!(of(&none, "", "last"), Precision::Int8);
        let more = PackPolicy {
            keep: None,
            keep_also: vec!["blocks.3.*".into()],
            ..none
        };
        for (place, layer) in [("blocks", "second"), ("", "last")] {
            assert_eq!(of(&more, place, layer), Precision::F32);
        }
        assert_eq!(of(&more, "others", "second"), Precision::Int8);
        let layers = ["blocks.3.first", "last"].map(str::to_owned);
        assert_eq!(more.unmatched(&layers), None);
        assert_eq!(more.unmatched(&layers[1..]), Some("blocks.3.*"));
        assert_eq!(chosen(Precision::Int8).unmatched(&layers), Some("*.also"));
        // What a network keeps by itself may be stored in less, but not what is asked for by name.
        let halved = Packing::new(&more, &own).keeping_in(Precision::Bf16);
        assert_eq!(halved.of("last"), Precision::Bf16);
        assert_eq!(halved.at("others.first").of("first"), Precision::Bf16);
        assert_eq!(halved.at("blocks.3").of("first"), Precision::F32);
        assert_eq!(halved.of("second"), Precision::Int8);
    }

    #[test]
    fn a_file_says_how_it_was_packed() {
        let policy = PackPolicy {
            precision: Precision::Int4 { group: 32 },
            keep: Some(vec!["a.*".into()]),
            keep_also: vec!["*\"b".into()],
        };
        for policy in [policy, Precision::Int8.into(), Precision::Bf16.into()] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        for text in [
            "",
            "{}",
            r#"{"precision":"int9"}"#,
            r#"{"precision":"int4/12"}"#,
            r#"{"precision":"int4/0"}"#,
        ] {
            assert!(text.parse::<PackPolicy>().is_err(), "{text}");
        }
    }
}
