//! Prompts to text states: preprocessing, tokenizer, encoder.

use std::sync::Mutex;

use candle_core::{DType, Device, Tensor};
use refrain_models::{
    ConfigFile,
    clip::{ClipTextConfig, ClipTextEncoder},
    t5::{T5Config, T5Encoder},
};
use refrain_ops::Precision;
use tokenizers::{Tokenizer, TruncationParams};

use crate::{
    checkpoint::open_weights,
    clip_tokenizer,
    error::{PipelineError, Result},
    source::ModelSource,
};

/// Texts whose states are remembered: a batch shares its negative prompt, a grid its prompts.
const REMEMBERED: usize = 16;

/// The token that stands for what a tokenizer does not know, as T5 spells it.
const UNKNOWN: &str = "<unk>";

/// How much of a text an encoder reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TextCoverage {
    /// Tokens read, the end mark included.
    pub tokens: usize,
    /// Tokens beyond the limit, which are not read (about: each rest ends with an end mark of its own).
    pub cut: usize,
    /// Tokens read that stand for something the model has no word for.
    pub unknown: usize,
}

/// The kinds of text encoders that image pipelines have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextFamily {
    /// T5, which sees a text without padding.
    T5,
    /// CLIP, which was trained on texts of one length: padding is part of the text.
    Clip,
    /// UMT5 as Wan uses it: capitals stay, states are padded with zeros to the limit.
    Umt5,
}

enum Encoder {
    T5(T5Encoder),
    Clip { encoder: ClipTextEncoder, padding: u32 },
}

/// Tokenizer and encoder of a text-to-image pipeline.
pub struct TextEncoder {
    file: String,
    tokenizer: Tokenizer,
    family: TextFamily,
    encoder: Encoder,
    limit: usize,
    parameters: usize,
    recent: Mutex<Vec<(String, Tensor)>>,
}

impl TextEncoder {
    /// Loads `tokenizer/` and `text_encoder/`. Texts are cut to `limit` tokens, or to the tokenizer's own
    /// `model_max_length` if that is shorter.
    pub(crate) fn load(source: &ModelSource, family: TextFamily, limit: usize, precision: Precision) -> Result<Self> {
        const CONFIG: &str = "text_encoder/config.json";
        let config =
            ConfigFile::parse(&source.label(CONFIG), &source.text(CONFIG, "it holds the text encoder's dimensions")?)?;
        let limit = limit.min(longest_text(source)?);
        let weights = || open_weights(source, "text_encoder");
        match family {
            TextFamily::T5 | TextFamily::Umt5 => {
                let config = T5Config::from_json(&config)?;
                let load_encoder = || -> Result<(T5Encoder, usize)> {
                    let weights = weights()?;
                    Ok((T5Encoder::load(&weights, &config, precision)?, weights.parameters()))
                };
                let (tokenizer, encoder) = rayon::join(|| load_tokenizer(source, limit), load_encoder);
                let ((file, tokenizer), (encoder, parameters)) = (tokenizer?, encoder?);
                Ok(Self::new((file, tokenizer), (family, Encoder::T5(encoder)), limit, parameters))
            }
            TextFamily::Clip => {
                let config = ClipTextConfig::from_json(&config)?;
                let limit = limit.min(config.positions);
                let (file, tokenizer, padding) = clip_tokenizer::load(source, limit)?;
                let weights = weights()?;
                let encoder = ClipTextEncoder::load(&weights, &config, precision)?;
                let encoder = Encoder::Clip { encoder, padding };
                Ok(Self::new((file, tokenizer), (family, encoder), limit, weights.parameters()))
            }
        }
    }

    fn new(
        (file, tokenizer): (String, Tokenizer),
        (family, encoder): (TextFamily, Encoder),
        limit: usize,
        parameters: usize,
    ) -> Self {
        Self { file, tokenizer, family, encoder, limit, parameters, recent: Mutex::new(Vec::new()) }
    }

    /// Width of the states.
    pub fn width(&self) -> usize {
        match &self.encoder {
            Encoder::T5(encoder) => encoder.config().width,
            Encoder::Clip { encoder, .. } => encoder.config().width,
        }
    }

    /// Longest text in tokens, its end mark included.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Number of values in the encoder's tensors.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// The text as the model was trained on it: lower case and trimmed; for Wan with its capitals, entities of HTML
    /// resolved and runs of white space as one space.
    fn cleaned(&self, text: &str) -> String {
        match self.family {
            TextFamily::T5 | TextFamily::Clip => text.to_lowercase().trim_matches(is_space).to_owned(),
            TextFamily::Umt5 => {
                let resolved = without_entities(&without_entities(text));
                resolved.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
            }
        }
    }

    /// Token ids of a text as the model was trained on it: cleaned, end mark appended, cut to the limit.
    ///
    /// # Errors
    /// If the tokenizer cannot encode it.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let encoding =
            self.tokenizer.encode_fast(self.cleaned(text), true).map_err(|error| self.problem(error.to_string()))?;
        if !encoding.get_overflowing().is_empty() {
            tracing::warn!("the text is cut to the model's {} tokens", self.limit);
        }
        match encoding.get_ids() {
            // A tokenizer without an end mark makes nothing of an empty text; the encoder needs one token.
            [] => Ok(vec![0]),
            ids => Ok(ids.to_vec()),
        }
    }

    /// How much of a text the encoder will read.
    ///
    /// # Errors
    /// If the tokenizer cannot encode it.
    pub fn coverage(&self, text: &str) -> Result<TextCoverage> {
        let encoding =
            self.tokenizer.encode_fast(self.cleaned(text), true).map_err(|error| self.problem(error.to_string()))?;
        let unknown = self.tokenizer.token_to_id(UNKNOWN);
        Ok(TextCoverage {
            tokens: encoding.get_ids().len(),
            cut: encoding.get_overflowing().iter().map(|rest| rest.get_ids().len()).sum(),
            unknown: encoding.get_ids().iter().filter(|&&id| Some(id) == unknown).count(),
        })
    }

    /// States of one text, `[1, tokens, width]`: without padding for T5; of the limit's length for CLIP, which reads its
    /// padding, and for Wan, whose padding is zeros.
    ///
    /// # Errors
    /// If tokenizer and encoder do not fit.
    pub fn encode(&self, text: &str) -> Result<Tensor> {
        let mut recent = self.recent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, states)) = recent.iter().find(|(known, _)| known == text) {
            return Ok(states.clone());
        }
        let mut tokens = self.tokens(text)?;
        let states = match &self.encoder {
            Encoder::T5(encoder) => {
                let states = encoder.forward(&tokens)?;
                let missing = if self.family == TextFamily::Umt5 { self.limit.saturating_sub(tokens.len()) } else { 0 };
                states.pad_with_zeros(1, 0, missing)?
            }
            Encoder::Clip { encoder, padding } => {
                tokens.resize(self.limit, *padding);
                encoder.forward(&tokens)?
            }
        };
        if recent.len() == REMEMBERED {
            recent.remove(0);
        }
        recent.push((text.to_owned(), states.clone()));
        Ok(states)
    }

    /// States of several texts as one batch `[b, tokens, width]`, the shorter ones padded, with the mask `[b, tokens]` of
    /// what is text.
    ///
    /// # Errors
    /// As [`TextEncoder::encode`].
    pub fn encode_batch(&self, texts: &[&str]) -> Result<(Tensor, Tensor)> {
        let states: Vec<Tensor> = texts.iter().map(|text| self.encode(text)).collect::<Result<_>>()?;
        let lengths: Vec<usize> = states.iter().map(|states| states.dim(1)).collect::<candle_core::Result<_>>()?;
        let longest = lengths.iter().copied().max().unwrap_or_default();
        let mut padded = Vec::with_capacity(states.len());
        let mut mask = Vec::with_capacity(states.len() * longest);
        for (states, length) in states.iter().zip(&lengths) {
            padded.push(states.pad_with_zeros(1, 0, longest - length)?);
            mask.extend((0..longest).map(|token| if token < *length { 1.0_f32 } else { 0.0 }));
        }
        let mask = Tensor::from_vec(mask, (states.len(), longest), &Device::Cpu)?;
        Ok((Tensor::cat(&padded, 0)?.to_dtype(DType::F32)?, mask))
    }

    fn problem(&self, problem: String) -> PipelineError {
        PipelineError::Tokenizer { file: self.file.clone(), problem }
    }
}

/// The text with the common entities of HTML resolved, named and numbered.
fn without_entities(text: &str) -> String {
    const NAMED: [(&str, &str); 6] =
        [("amp", "&"), ("lt", "<"), ("gt", ">"), ("quot", "\""), ("apos", "'"), ("nbsp", "\u{a0}")];
    let mut pieces = text.split('&');
    let mut resolved = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let entity = piece.split_once(';').and_then(|(name, rest)| {
            let character = match name.strip_prefix('#') {
                Some(number) => {
                    let number = match number.strip_prefix(['x', 'X']) {
                        Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                        None => number.parse().ok()?,
                    };
                    char::from_u32(number)?.to_string()
                }
                None => NAMED.iter().find(|(known, _)| *known == name)?.1.to_owned(),
            };
            Some((character, rest))
        });
        match entity {
            Some((character, rest)) => resolved.extend([character.as_str(), rest]),
            None => resolved.extend(["&", piece]),
        }
    }
    resolved
}

/// White space as Python's `str.strip` sees it: Unicode's, and the four separators of ASCII.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// `model_max_length` of the tokenizer, where it is meant: an absent limit is written as 1e30.
fn longest_text(source: &ModelSource) -> Result<usize> {
    const CONFIG: &str = "tokenizer/tokenizer_config.json";
    if !source.has(CONFIG) {
        return Ok(usize::MAX);
    }
    let config = ConfigFile::parse(&source.label(CONFIG), &source.text(CONFIG, "")?)?;
    match config.number("model_max_length")? {
        Some(limit) if limit < 2.0 => {
            Err(config.error("model_max_length", format!("is {limit}, expected at least 2")).into())
        }
        Some(limit) if limit < 1e6 => Ok(limit as usize),
        _ => Ok(usize::MAX),
    }
}

fn load_tokenizer(source: &ModelSource, limit: usize) -> Result<(String, Tokenizer)> {
    const NAME: &str = "tokenizer/tokenizer.json";
    let advice = "save the pipeline with a fast tokenizer, which writes it";
    let file = source.label(NAME);
    let content = source.open(NAME, advice)?;
    let tokenizer =
        Tokenizer::from_bytes(&content[..]).and_then(|tokenizer| cut_at(tokenizer, limit)).map_err(|error| {
            PipelineError::Tokenizer { file: file.clone(), problem: format!("not a readable tokenizer ({error})") }
        })?;
    Ok((file, tokenizer))
}

/// A tokenizer that cuts texts to `limit` tokens, marks included, and never pads.
pub(crate) fn cut_at(mut tokenizer: Tokenizer, limit: usize) -> tokenizers::Result<Tokenizer> {
    let truncation = TruncationParams { max_length: limit, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation))?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}
