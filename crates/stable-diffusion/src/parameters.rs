//! How a picture was made, inside of the picture.
//!
//! A PNG gets two text chunks: `clearway` is JSON and is read back as it was written; `parameters` is the text of
//! Stable Diffusion web UI, which the field's programs show and paste.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde::{Deserialize, Serialize};

use crate::picture::{PictureError, bytes, text_chunks};

/// The chunk with JSON.
const JSON: &str = "clearway";

/// The chunk with web UI's text.
const INFOTEXT: &str = "parameters";

/// What begins the line of the negative prompt in web UI's text.
const NEGATIVE: &str = "Negative prompt:";

/// How web UI calls a ControlNet, before its number, and what is said of it.
const CONTROL: &str = "ControlNet";
const CONTROL_NAME: &str = "Model";
const CONTROL_SCALE: &str = "Weight";
const CONTROL_PICTURE: &str = "Picture hash";

/// Why parameters cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParametersError {
    /// A number is NaN or infinite, which JSON has no word for.
    #[error("{name} is {found}, which is not finite")]
    NonFinite {
        /// The parameter.
        name: String,
        /// Its value.
        found: f64,
    },
    /// The JSON is not of parameters.
    #[error("the parameters in chunk `{JSON}` cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Web UI's text lacks what a picture cannot be made again without.
    #[error("the parameters have no `{key}`")]
    Missing {
        /// As web UI calls it.
        key: &'static str,
    },
    /// A value of web UI's text is not what it should be.
    #[error("the parameter `{key}` is `{found}` where {expected} is needed")]
    Value {
        /// As web UI calls it.
        key: &'static str,
        /// What is there.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
}

/// A low-rank update that a picture was made with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// Its name: a file without folder and ending.
    pub name: String,
    /// What its update was multiplied by.
    #[serde(with = "exact")]
    pub scale: f64,
}

/// A ControlNet that a picture followed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlUse {
    /// Its name: a file without folder and ending.
    pub name: String,
    /// How much it was obeyed.
    #[serde(with = "exact")]
    pub scale: f64,
    /// The [digest](crate::Picture::digest) of the picture that it saw.
    pub picture: String,
}

impl Lora {
    /// Takes `<lora:name:scale>` out of a prompt, as web UI has it; one whose scale is no number stays as text.
    pub fn of_prompt(prompt: &str) -> (String, Vec<Self>) {
        let mut loras = Vec::new();
        let rest = LORA.replace_all(prompt, |found: &Captures<'_>| {
            match found[2].parse::<f64>() {
                Ok(scale) if scale.is_finite() => {
                    let name = found[1].into();
                    loras.push(Self { name, scale });
                    String::new()
                }
                _ => found[0].into(),
            }
        });
        (rest.into_owned(), loras)
    }
}

/// How a picture was made: with these and the model it can be made again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parameters {
    /// What to show, with its brackets.
    pub prompt: String,
    /// What not to show.
    pub negative_prompt: String,
    /// Of the noise.
    pub seed: u64,
    /// Denoising steps.
    pub steps: usize,
    /// The solver.
    pub method: String,
    /// How the levels of noise are spaced, where it is not the method's usual way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid: Option<String>,
    /// Of classifier-free guidance.
    #[serde(with = "exact")]
    pub scale: f64,
    /// How far guidance's standard deviation is brought back, from 0 to 1.
    #[serde(with = "exact")]
    pub rescale: f64,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// How much of the noise a given picture got, from 0 to 1; `None` without one.
    #[serde(skip_serializing_if = "Option::is_none", with = "exact_option")]
    pub strength: Option<f64>,
    /// How many of the text encoder's last layers were left out.
    pub clip_skip: usize,
    /// In the order in which they were applied.
    pub loras: Vec<Lora>,
    /// The ControlNets, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<ControlUse>,
    /// The [digest](crate::Picture::digest) of the picture to begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The digest of the mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// The autoencoder's name, where it is not the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae: Option<String>,
    /// What the U-Net's weights were packed in, where they were: f32, or less, whose picture is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    /// What the U-Net predicts, in diffusers' word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction: Option<String>,
    /// The model's name.
    pub model: String,
    /// The first ten digits of the model's [hash](crate::Files::hash).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_hash: Option<String>,
    /// The program and its version.
    pub version: String,
    /// What another program wrote and this one has no name for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub others: BTreeMap<String, String>,
}

impl Parameters {
    /// The keywords and texts of the chunks.
    ///
    /// # Errors
    ///
    /// [`ParametersError::NonFinite`] names a number that JSON cannot hold.
    pub fn chunks(&self) -> Result<[(&'static str, String); 2], ParametersError> {
        let numbers = [
            ("scale", Some(self.scale)),
            ("rescale", Some(self.rescale)),
            ("strength", self.strength),
        ];
        let loras = self
            .loras
            .iter()
            .map(|lora| (&*lora.name, Some(lora.scale)));
        let controls = self
            .controls
            .iter()
            .map(|control| (&*control.name, Some(control.scale)));
        for (name, number) in numbers.into_iter().chain(loras).chain(controls) {
            if let Some(found) = number.filter(|number| !number.is_finite()) {
                return Err(ParametersError::NonFinite {
                    name: name.into(),
                    found,
                });
            }
        }
        // ASCII, with escapes, can go into any chunk.
        let json = serde_json::to_string(self)?;
        Ok([(JSON, ascii(&json)), (INFOTEXT, self.infotext())])
    }

    /// Reads a PNG's parameters: Clearway's, or web UI's; `None` if it has neither.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is no PNG, or has parameters that cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>, PictureError> {
        Self::from_png(&bytes(path)?)
    }

    /// The same from the bytes of a PNG.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn from_png(bytes: &[u8]) -> Result<Option<Self>, PictureError> {
        let chunks = text_chunks(bytes)?;
        let find = |wanted| chunks.iter().find(|(keyword, _)| keyword == wanted);
        if let Some((_, json)) = find(JSON) {
            let parameters = serde_json::from_str(json).map_err(ParametersError::Json)?;
            return Ok(Some(parameters));
        }
        match find(INFOTEXT) {
            Some((_, text)) => Ok(Some(Self::from_infotext(text)?)),
            None => Ok(None),
        }
    }

    /// Web UI's text: the prompt, the negative prompt, and a line of everything else.
    ///
    /// LoRAs follow the prompt as `<lora:name:scale>`. Clip skip counts from 1 there.
    pub fn infotext(&self) -> String {
        let mut text = self.prompt.clone();
        for lora in &self.loras {
            let _ = write!(text, "<lora:{}:{}>", lora.name, lora.scale);
        }
        if !self.negative_prompt.is_empty() {
            let _ = write!(text, "\n{NEGATIVE} {}", self.negative_prompt);
        }
        let _ = write!(text, "\nSteps: {}", self.steps);
        let mut put = |key: &str, value: &str| {
            let _ = write!(text, ", {key}: {}", quoted(value));
        };
        put("Sampler", &self.method);
        if let Some(grid) = &self.grid {
            put("Schedule type", grid);
        }
        put("CFG scale", &self.scale.to_string());
        if self.rescale > 0.0 {
            put("CFG Rescale", &self.rescale.to_string());
        }
        put("Seed", &self.seed.to_string());
        put("Size", &format!("{}x{}", self.width, self.height));
        if let Some(hash) = &self.model_hash {
            put("Model hash", hash);
        }
        if !self.model.is_empty() {
            put("Model", &self.model);
        }
        if let Some(vae) = &self.vae {
            put("VAE", vae);
        }
        if let Some(precision) = &self.precision {
            put("Precision", precision);
        }
        if let Some(strength) = self.strength {
            put("Denoising strength", &strength.to_string());
        }
        if self.clip_skip > 0 {
            put("Clip skip", &(self.clip_skip + 1).to_string());
        }
        for (i, control) in self.controls.iter().enumerate() {
            let mut settings = String::new();
            for (key, value) in [
                (CONTROL_NAME, &control.name),
                (CONTROL_SCALE, &control.scale.to_string()),
                (CONTROL_PICTURE, &control.picture),
            ] {
                let comma = if settings.is_empty() { "" } else { ", " };
                let _ = write!(settings, "{comma}{key}: {}", quoted(value));
            }
            put(&format!("{CONTROL} {i}"), &settings);
        }
        for (key, value) in [
            ("Source hash", &self.source),
            ("Mask hash", &self.mask),
            ("Prediction type", &self.prediction),
        ] {
            if let Some(value) = value {
                put(key, value);
            }
        }
        for (key, value) in &self.others {
            put(key, value);
        }
        if !self.version.is_empty() {
            put("Version", &self.version);
        }
        text
    }

    /// Reads web UI's text, as other programs write it too.
    ///
    /// What has no field here is kept in [`others`](Self::others).
    ///
    /// # Errors
    ///
    /// [`ParametersError::Missing`] without steps, sampler, scale, seed or size; [`ParametersError::Value`] if a value
    /// is not of its kind.
    pub fn from_infotext(text: &str) -> Result<Self, ParametersError> {
        let text = text.trim();
        let (prompts, settings) = text.rsplit_once('\n').unwrap_or(("", text));
        let mut values = read_settings(settings);
        let mut controls = Vec::new();
        while let Some(said) = values.get(&*format!("{CONTROL} {}", controls.len()))
            && let Some(control) = ControlUse::read(said)
        {
            values.remove(&*format!("{CONTROL} {}", controls.len()));
            controls.push(control);
        }
        let mut take = |key: &'static str| values.remove(key);
        let needed = |value: Option<String>, key| value.ok_or(ParametersError::Missing { key });
        let steps = needed(take("Steps"), "Steps")?;
        let method = needed(take("Sampler"), "Sampler")?;
        let scale = needed(take("CFG scale"), "CFG scale")?;
        let seed = needed(take("Seed"), "Seed")?;
        let size = needed(take("Size"), "Size")?;
        let (width, height) = size
            .split_once('x')
            .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)))
            .ok_or_else(|| ParametersError::Value {
                key: "Size",
                found: size.clone(),
                expected: "width x height",
            })?;
        let optional = |value: Option<String>, key| {
            value
                .map(|value| parse::<f64>(key, value, "a number"))
                .transpose()
        };
        let clip_skip = match take("Clip skip") {
            Some(value) => parse::<usize>("Clip skip", value, "a whole number")?.saturating_sub(1),
            None => 0,
        };
        let (prompt, negative_prompt) = divide(prompts);
        let (prompt, loras) = Lora::of_prompt(&prompt);
        Ok(Self {
            seed: parse("Seed", seed, "a whole number from 0")?,
            steps: parse("Steps", steps, "a whole number")?,
            method,
            grid: take("Schedule type"),
            scale: parse("CFG scale", scale, "a number")?,
            rescale: optional(take("CFG Rescale"), "CFG Rescale")?.unwrap_or(0.0),
            strength: optional(take("Denoising strength"), "Denoising strength")?,
            vae: take("VAE"),
            precision: take("Precision"),
            source: take("Source hash"),
            mask: take("Mask hash"),
            prediction: take("Prediction type"),
            controls,
            model: take("Model").unwrap_or_default(),
            model_hash: take("Model hash"),
            version: take("Version").unwrap_or_default(),
            others: values
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
            prompt,
            negative_prompt,
            width,
            height,
            clip_skip,
            loras,
        })
    }
}

impl ControlUse {
    /// Reads what [`Parameters::infotext`] wrote; none of what other programs write, which say more than there is here.
    fn read(settings: &str) -> Option<Self> {
        let mut values = read_settings(settings);
        let control = Self {
            name: values.remove(CONTROL_NAME)?,
            scale: values.remove(CONTROL_SCALE)?.parse().ok()?,
            picture: values.remove(CONTROL_PICTURE)?,
        };
        values.is_empty().then_some(control)
    }
}

/// The keys and values of a line.
fn read_settings(line: &str) -> BTreeMap<&str, String> {
    SETTING
        .captures_iter(line)
        .filter_map(|found| Some((found.get(1)?.as_str(), unquoted(found.get(2)?.as_str()))))
        .collect()
}

/// A key, a colon, and a value that ends at a comma or is quoted.
static SETTING: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)"#).expect("a constant")
});

static LORA: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("<lora:([^:<>]+):([^:<>]+)>").expect("a constant"));

fn parse<T: std::str::FromStr>(
    key: &'static str,
    found: String,
    expected: &'static str,
) -> Result<T, ParametersError> {
    found.parse().map_err(|_| ParametersError::Value {
        key,
        found,
        expected,
    })
}

/// The lines of the prompt and those of the negative one.
fn divide(lines: &str) -> (String, String) {
    let mut prompts = [Vec::new(), Vec::new()];
    let mut negative = 0;
    for line in lines.lines() {
        let line = line.trim();
        let text = match line.strip_prefix(NEGATIVE) {
            Some(rest) => {
                negative = 1;
                rest.trim()
            }
            None => line,
        };
        prompts[negative].push(text);
    }
    let [prompt, negative] = prompts.map(|lines| lines.join("\n"));
    (prompt, negative)
}

/// A value with a comma, a colon or a line break is written as a JSON string.
fn quoted(value: &str) -> String {
    if value.contains([',', ':', '\n', '"']) {
        serde_json::Value::from(value).to_string()
    } else {
        value.into()
    }
}

fn unquoted(value: &str) -> String {
    match serde_json::from_str(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => value.trim().into(),
    }
}

/// JSON without characters above ASCII.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

/// Numbers that are read back to the bit: a string where serde_json's reading of the number is off by a digit.
mod exact {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    pub(super) enum Number {
        Number(f64),
        Digits(String),
    }

    impl From<f64> for Number {
        fn from(value: f64) -> Self {
            let digits = value.to_string();
            let read: Option<f64> = serde_json::to_string(&value)
                .ok()
                .and_then(|json| serde_json::from_str(&json).ok());
            if read.is_some_and(|read| read.to_bits() == value.to_bits()) {
                Self::Number(value)
            } else {
                Self::Digits(digits)
            }
        }
    }

    impl Number {
        pub(super) fn value<E: serde::de::Error>(self) -> Result<f64, E> {
            match self {
                Self::Number(value) => Ok(value),
                Self::Digits(digits) => digits.parse().map_err(E::custom),
            }
        }
    }

    // serde passes what it serializes by reference.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        Number::from(*value).serialize(serializer)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(deserializer: D) -> Result<f64, D::Error> {
        Number::deserialize(deserializer)?.value()
    }
}

/// The same for numbers that may be absent.
mod exact_option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::exact::Number;

    // serde passes what it serializes by reference.
    #[allow(clippy::ref_option)]
    pub(super) fn serialize<S: Serializer>(
        value: &Option<f64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(Number::from).serialize(serializer)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(
        deserializer: D,
    ) -> Result<Option<f64>, D::Error> {
        Option::<Number>::deserialize(deserializer)?
            .map(Number::value)
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::picture::Picture;

    fn picture() -> Picture {
        Picture::new(8, 8, vec![7; 192]).expect("a picture")
    }

    fn example() -> Parameters {
        Parameters {
            prompt: "a (red:1.2) “cat”, 日本\nsecond line".into(),
            negative_prompt: "blurry, [bad]".into(),
            seed: u64::MAX,
            steps: 20,
            method: "DPM++ 2M".into(),
            grid: Some("Karras".into()),
            scale: 7.5,
            rescale: 0.7,
            width: 512,
            height: 768,
            strength: Some(0.75),
            clip_skip: 1,
            loras: vec![Lora {
                name: "ink".into(),
                scale: 0.8,
            }],
            controls: vec![ControlUse {
                name: "edges: fine, or so".into(),
                scale: 0.7,
                picture: "00ff00ff00".into(),
            }],
            source: Some("0123456789".into()),
            mask: Some("abcdef0123".into()),
            vae: Some("smooth".into()),
            precision: Some("bf16".into()),
            prediction: Some("v_prediction".into()),
            model: "tiny, or so".into(),
            model_hash: Some("45dee52b".into()),
            version: "clearway 0.1.0".into(),
            others: BTreeMap::from([("RNG".into(), "CPU".into())]),
        }
    }

    #[test]
    fn a_png_knows_how_it_was_made() -> Result<(), PictureError> {
        let png = picture().png(Some(&example()))?;
        assert_eq!(Parameters::from_png(&png)?, Some(example()));
        assert_eq!(Picture::decode(&png)?, picture());
        assert_eq!(Parameters::from_png(&picture().png(None)?)?, None);
        Ok(())
    }

    #[test]
    fn other_programs_can_read_it() -> Result<(), ParametersError> {
        let expected = "a (red:1.2) “cat”, 日本\nsecond line<lora:ink:0.8>\n\
            Negative prompt: blurry, [bad]\n\
            Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, CFG Rescale: 0.7, \
            Seed: 18446744073709551615, Size: 512x768, Model hash: 45dee52b, Model: \"tiny, or so\", VAE: smooth, Precision: bf16, \
            Denoising strength: 0.75, Clip skip: 2, \
            ControlNet 0: \"Model: \\\"edges: fine, or so\\\", Weight: 0.7, Picture hash: 00ff00ff00\", \
            Source hash: 0123456789, Mask hash: abcdef0123, Prediction type: v_prediction, \
            RNG: CPU, Version: clearway 0.1.0";
        assert_eq!(example().infotext(), expected);
        assert_eq!(Parameters::from_infotext(expected)?, example());
        Ok(())
    }

    #[test]
    fn what_other_programs_wrote_can_be_read() -> Result<(), PictureError> {
        let text = "girl with a beret, ((eyeshadow)), detailed\n\
            Negative prompt: ugly, (((deformed)))\n\
            Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 965400086, Size: 512x512, Model hash: 45dee52b";
        let parameters = Parameters::from_infotext(text)?;
        assert_eq!(
            parameters.prompt,
            "girl with a beret, ((eyeshadow)), detailed"
        );
        assert_eq!(parameters.negative_prompt, "ugly, (((deformed)))");
        assert_eq!((parameters.seed, parameters.steps), (965_400_086, 20));
        assert_eq!((parameters.width, parameters.height), (512, 512));
        assert_eq!(parameters.method, "Euler a");
        assert_eq!((parameters.clip_skip, parameters.strength), (0, None));

        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, 1, 1);
        encoder.set_color(png::ColorType::Rgb);
        encoder
            .add_ztxt_chunk(INFOTEXT.into(), text.into())
            .expect("a chunk");
        let mut writer = encoder.write_header().expect("a header");
        writer.write_image_data(&[1, 2, 3]).expect("a pixel");
        writer.finish().expect("an end");
        assert_eq!(Parameters::from_png(&png)?, Some(parameters));
        Ok(())
    }

    #[test]
    fn prompts_name_loras() {
        let (prompt, loras) =
            Lora::of_prompt("a cat<lora:ink:0.8>, <lora:x:strong> <lora:dots:-1>");
        assert_eq!(prompt, "a cat, <lora:x:strong> ");
        let lora = |name: &str, scale| Lora {
            name: name.into(),
            scale,
        };
        assert_eq!(loras, [lora("ink", 0.8), lora("dots", -1.0)]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let error = |text: &str| {
            Parameters::from_infotext(text)
                .expect_err("parameters")
                .to_string()
        };
        assert_eq!(error("a cat"), "the parameters have no `Steps`");
        assert_eq!(
            error("a\nSteps: 2, Sampler: DDIM, CFG scale: 7, Size: 8x8"),
            "the parameters have no `Seed`"
        );
        assert_eq!(
            error("a\nSteps: 2, Sampler: DDIM, CFG scale: 7, Seed: -1, Size: 8x8"),
            "the parameter `Seed` is `-1` where a whole number from 0 is needed"
        );
        assert_eq!(
            error("a\nSteps: 2, Sampler: DDIM, CFG scale: 7, Seed: 1, Size: 8"),
            "the parameter `Size` is `8` where width x height is needed"
        );
        let endless = Parameters {
            scale: f64::INFINITY,
            ..Parameters::default()
        };
        let error = picture().png(Some(&endless)).expect_err("a number");
        assert_eq!(error.to_string(), "scale is inf, which is not finite");
    }

    #[test]
    fn a_file_that_is_no_png_is_an_error() {
        assert!(Parameters::from_png(b"no PNG").is_err());
        let png = picture().png(Some(&example())).expect("a PNG");
        assert!(matches!(
            Parameters::from_png(&png[..40]),
            Err(PictureError::Truncated)
        ));
    }

    fn finite() -> impl Strategy<Value = f64> {
        any::<u64>()
            .prop_map(f64::from_bits)
            .prop_filter("finite", |value| value.is_finite())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            texts in prop::collection::vec(any::<String>(), 12),
            seed in any::<u64>(),
            whole in any::<(u32, u32, u16, u16)>(),
            numbers in prop::collection::vec(finite(), 5),
            strength in any::<bool>(),
        ) {
            let parameters = Parameters {
                prompt: texts[0].clone(),
                negative_prompt: texts[1].clone(),
                seed,
                steps: usize::from(whole.2),
                method: texts[2].clone(),
                grid: strength.then(|| texts[3].clone()),
                scale: numbers[0],
                rescale: numbers[1],
                width: whole.0,
                height: whole.1,
                strength: strength.then_some(numbers[2]),
                clip_skip: usize::from(whole.3),
                loras: vec![Lora { name: texts[4].clone(), scale: numbers[3] }],
                controls: vec![ControlUse {
                    name: texts[7].clone(),
                    scale: numbers[4],
                    picture: texts[8].clone(),
                }],
                source: Some(texts[9].clone()),
                mask: Some(texts[10].clone()),
                vae: Some(texts[11].clone()),
                precision: None,
                prediction: None,
                model: texts[5].clone(),
                model_hash: Some(texts[6].clone()),
                version: String::new(),
                others: BTreeMap::new(),
            };
            let png = picture().png(Some(&parameters))?;
            prop_assert_eq!(Parameters::from_png(&png)?, Some(parameters));
        }

        #[test]
        fn any_text_is_parameters_or_an_error(text in any::<String>(), signs in "[a-zS:, \"x0-9\n<>]{0,80}") {
            for text in [text, signs] {
                let rest = ["\nSteps: 1, Sampler: a, CFG scale: 1, Seed: 1, Size: 8x8, ", &text].concat();
                let _ = Parameters::from_infotext(&text);
                let _ = Parameters::from_infotext(&rest);
            }
        }
    }
}
