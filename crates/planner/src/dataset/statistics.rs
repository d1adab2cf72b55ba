//! The statistics of a feature, as they are kept or as they are.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::DatasetError;
use crate::lerobot::json::{self, Entry};
use crate::normalization::Mode;

const STATISTICS: &str = "meta/stats.json";

/// What the values of a feature are like: named rows of numbers, one for each value.
///
/// LeRobot's names: `min`, `max`, `mean`, `std` (of the whole, not of a sample), and quantiles (`q01`, `q10`, `q50`, `q90`,
/// `q99`) where they are kept. LeRobot's quantiles are means over episodes, and are not computed here.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics(BTreeMap<String, Vec<f64>>);

/// Reads `meta/stats.json`, where there is one.
pub(super) fn read(folder: &Path) -> Result<Option<Value>, DatasetError> {
    if folder.join(STATISTICS).exists() {
        Ok(Some(json::read(folder, STATISTICS)?))
    } else {
        Ok(None)
    }
}

impl Statistics {
    /// Those that a file keeps of a feature; nothing if it keeps none.
    pub(super) fn read(
        file: &Value,
        feature: &str,
        len: usize,
    ) -> Result<Option<Self>, DatasetError> {
        let Some(entry) = Entry::root(STATISTICS, file).find(feature)? else {
            return Ok(None);
        };
        let mut statistics = BTreeMap::new();
        for (name, entry) in entry.entries()? {
            // How many frames there are is one number, whatever the feature.
            if name == "count" {
                continue;
            }
            let values = entry
                .list()?
                .map(|value| value.number(|_| true, "a finite number"))
                .collect::<Result<Vec<_>, _>>()?;
            if values.len() != len {
                return Err(entry.wrong(format!("a list of {len} numbers")).into());
            }
            statistics.insert(name.to_owned(), values);
        }
        Ok(Some(Self(statistics)))
    }

    /// The smallest and largest values, the means and the standard deviations of `[rows, len]` numbers.
    ///
    /// # Panics
    ///
    /// If there is no row.
    pub fn of(values: &[f64], len: usize) -> Self {
        let rows = values.len() / len;
        assert!(rows > 0, "statistics of nothing");
        let over = |f: &dyn Fn(usize) -> f64| (0..len).map(f).collect::<Vec<f64>>();
        let column = |i: usize| values[i..].iter().step_by(len).copied();
        let mean = over(&|i| column(i).sum::<f64>() / rows as f64);
        let deviation = over(&|i| {
            let squares = column(i).map(|x| (x - mean[i]).powi(2));
            (squares.sum::<f64>() / rows as f64).sqrt()
        });
        let statistics = [
            ("min", over(&|i| column(i).fold(f64::INFINITY, f64::min))),
            (
                "max",
                over(&|i| column(i).fold(f64::NEG_INFINITY, f64::max)),
            ),
            ("std", deviation),
            ("mean", mean),
        ];
        Self(statistics.map(|(name, row)| (name.into(), row)).into())
    }

    /// All of them, sorted by name.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &[f64])> {
        let rows = self.0.iter();
        rows.map(|(name, row)| (name.as_str(), row.as_slice()))
    }

    /// A statistic, by LeRobot's name; none if it is not kept.
    pub fn get(&self, name: &str) -> Option<&[f64]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// The two that a mode of normalization needs; none if one is not kept, or the mode needs none.
    pub fn of_mode(&self, mode: Mode) -> Option<[&[f64]; 2]> {
        let [first, second] = mode.statistics()?;
        Some([self.get(first)?, self.get(second)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_of_columns() {
        let statistics = Statistics::of(&[1.0, -1.0, 3.0, -1.0, 5.0, -4.0], 2);
        assert_eq!(statistics.get("min"), Some(&[1.0, -4.0][..]));
        assert_eq!(statistics.get("max"), Some(&[5.0, -1.0][..]));
        assert_eq!(statistics.get("mean"), Some(&[3.0, -2.0][..]));
        let std = statistics.get("std").expect("computed");
        // (4 + 0 + 4) / 3 and (1 + 1 + 4) / 3
        assert!((std[0] - (8.0_f64 / 3.0).sqrt()).abs() < 1e-15);
        assert!((std[1] - 2.0_f64.sqrt()).abs() < 1e-15);
        assert!(statistics.of_mode(Mode::Quantiles).is_none());
        assert!(statistics.of_mode(Mode::MeanStd).is_some());
    }
}
