//! CLIP's tokenizer: byte-pair encoding over lower-cased words, from `tokenizer.json` or from the older pair of files.

use std::collections::HashMap;

use refrain_models::ConfigFile;
use tokenizers::{
    AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
    models::bpe::{BPE, Vocab},
    normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers, replace::ReplacePattern},
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence as PreTokenizers,
        split::{Split, SplitPattern},
    },
    processors::roberta::RobertaProcessing,
};

use crate::{
    error::{PipelineError, Result},
    source::ModelSource,
    text::cut_at,
};

const FAST: &str = "tokenizer/tokenizer.json";
const VOCABULARY: &str = "tokenizer/vocab.json";
const MERGES: &str = "tokenizer/merges.txt";
/// Where the padding token is named, the first that does wins.
const SETTINGS: [&str; 2] = ["tokenizer/tokenizer_config.json", "tokenizer/special_tokens_map.json"];

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// Words, contractions, single digits and runs of signs; the marks stay whole.
const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The file it came from, the tokenizer cut to `limit` tokens, and the token that fills a text up.
pub(crate) fn load(source: &ModelSource, limit: usize) -> Result<(String, Tokenizer, u32)> {
    let fast = source.has(FAST);
    let file = source.label(if fast { FAST } else { VOCABULARY });
    let problem = |problem: String| PipelineError::Tokenizer { file: file.clone(), problem };
    let unreadable = |error: tokenizers::Error| problem(format!("not a readable tokenizer ({error})"));
    let tokenizer = if fast {
        Tokenizer::from_bytes(&source.open(FAST, "")?[..]).map_err(unreadable)?
    } else {
        let vocabulary = source.text(VOCABULARY, "CLIP's tokenizer needs it, or a tokenizer.json")?;
        let merges = source.text(MERGES, "CLIP's tokenizer needs it beside vocab.json")?;
        from_pair(&vocabulary, &merges).map_err(unreadable)?
    };
    let tokenizer = cut_at(tokenizer, limit).map_err(unreadable)?;
    let name = padding_name(source)?;
    let padding = tokenizer.token_to_id(&name).ok_or_else(|| problem(format!("has no padding token `{name}`")))?;
    Ok((file.clone(), tokenizer, padding))
}

fn from_pair(vocabulary: &str, merges: &str) -> tokenizers::Result<Tokenizer> {
    let vocabulary: HashMap<String, u32> = serde_json::from_str(vocabulary)?;
    let mark = |name: &str| {
        let id = vocabulary.get(name).copied().ok_or_else(|| format!("its vocabulary has no `{name}`"))?;
        Ok::<_, tokenizers::Error>((name.to_owned(), id))
    };
    let (start, end) = (mark(START)?, mark(END)?);
    let mut pairs = Vec::new();
    for line in merges.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty()) {
        let (left, right) = line.split_once(' ').ok_or_else(|| format!("merges.txt has no pair in {line:?}"))?;
        pairs.push((left.to_owned(), right.trim_end().to_owned()));
    }
    let model = BPE::builder()
        .vocab_and_merges(vocabulary.into_iter().collect::<Vocab>(), pairs)
        .unk_token(END.to_owned())
        .end_of_word_suffix("</w>".to_owned())
        .build()?;
    let mut tokenizer = Tokenizer::new(model);
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
    tokenizer.with_normalizer(Some(Normalizers::new(vec![
        NormalizerWrapper::NFC(NFC),
        NormalizerWrapper::Replace(spaces),
        NormalizerWrapper::Lowercase(Lowercase),
    ])))?;
    let words = Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true)?;
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![
        PreTokenizerWrapper::Split(words),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
    ])));
    tokenizer.with_post_processor(Some(RobertaProcessing::new(end, start).trim_offsets(false).add_prefix_space(false)));
    tokenizer.add_special_tokens([AddedToken::from(START, true), AddedToken::from(END, true)])?;
    Ok(tokenizer)
}

fn padding_name(source: &ModelSource) -> Result<String> {
    for path in SETTINGS.into_iter().filter(|path| source.has(path)) {
        let settings = ConfigFile::parse(&source.label(path), &source.text(path, "")?)?;
        let named =
            settings.value("pad_token").and_then(|value| value.as_str().or_else(|| value.get("content")?.as_str()));
        if let Some(name) = named {
            return Ok(name.to_owned());
        }
    }
    Ok(END.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_of_files_makes_a_tokenizer() -> tokenizers::Result<()> {
        let vocabulary = r#"{"f": 0, "o": 1, "x</w>": 2, "fo": 3, "fox</w>": 4, "a</w>": 5, "<|startoftext|>": 6, "<|endoftext|>": 7}"#;
        let tokenizer = cut_at(from_pair(vocabulary, "#version: 0.2\nf o\nfo x</w>\n")?, 4)?;
        assert_eq!(tokenizer.encode_fast("A  FOX", true)?.get_ids(), [6, 5, 4, 7]);
        assert_eq!(tokenizer.encode_fast("a a a a a", true)?.get_ids(), [6, 5, 5, 7]);
        assert_eq!(tokenizer.encode_fast("", true)?.get_ids(), [6, 7]);
        for (vocabulary, merges) in [("[]", ""), ("{}", ""), (vocabulary, "fo"), (vocabulary, "f q")] {
            assert!(from_pair(vocabulary, merges).is_err(), "{vocabulary} {merges}");
        }
        Ok(())
    }
}
