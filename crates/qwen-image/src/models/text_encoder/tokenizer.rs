//! Qwen2's byte-level BPE, from `tokenizer.json` or from the files of older checkpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{TextError, broken_tokenizer};
use crate::models::{LoadResult, ModelError, read_json};

/// How text is split before merging, fixed by the model (transformers' `tokenization_qwen2.py`).
const PIECES: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// The checkpoint's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads `tokenizer.json` in `folder`, or builds it from `vocab.json`, `merges.txt` and the added tokens.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if the files cannot be read.
    pub fn load(folder: &Path) -> LoadResult<Self> {
        let path = folder.join("tokenizer.json");
        let mut inner = if path.is_file() {
            tokenizers::Tokenizer::from_file(&path).map_err(|error| broken_tokenizer(&path, error))?
        } else {
            build(folder)?
        };
        // Files may contain settings of the training run.
        inner.with_truncation(None).map_err(|error| broken_tokenizer(&path, error))?;
        inner.with_padding(None);
        Ok(Self { inner })
    }

    /// Tokens of `text`; names of special tokens in it become those tokens.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let encoding = self.inner.encode_fast(text, true).map_err(|error| TextError::Tokenizer(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `tokens`, without special ones.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] for tokens that it does not know.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TextError> {
        self.inner.decode(tokens, true).map_err(|error| TextError::Tokenizer(error.to_string()))
    }

    /// The whole tokenizer as text: equal for equivalent tokenizers, whatever files they come from.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] if it cannot be written as text.
    pub fn description(&self, folder: &Path) -> LoadResult<String> {
        self.inner.to_string(false).map_err(|error| broken_tokenizer(folder, error))
    }

    /// One more than the highest token.
    pub fn len(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    added_tokens_decoder: BTreeMap<String, AddedToken>,
    additional_special_tokens: Vec<Name>,
    eos_token: Option<Name>,
    pad_token: Option<Name>,
    bos_token: Option<Name>,
    unk_token: Option<Name>,
    add_prefix_space: Option<bool>,
}

impl TokenizerConfig {
    fn specials(self) -> impl Iterator<Item = String> {
        let named = [self.eos_token, self.pad_token, self.bos_token, self.unk_token];
        self.additional_special_tokens.into_iter().chain(named.into_iter().flatten()).map(Name::into_string)
    }
}

#[derive(Debug, Clone, Deserialize)]
struct AddedToken {
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    single_word: bool,
}

/// A token, either as text or as an object.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Name {
    Text(String),
    Record { content: String },
}

impl Name {
    fn into_string(self) -> String {
        match self {
            Self::Text(content) | Self::Record { content } => content,
        }
    }
}

/// Builds the equivalent `tokenizer.json` from the files, and loads it.
fn build(folder: &Path) -> LoadResult<tokenizers::Tokenizer> {
    let vocabulary: BTreeMap<String, u32> = read_json(&folder.join("vocab.json"))?;
    let config: TokenizerConfig = read_optional(&folder.join("tokenizer_config.json"))?;
    let prefix_space = config.add_prefix_space.unwrap_or(false);
    let added = added_tokens(folder, config)?;
    let records: Vec<Value> = added
        .iter()
        .map(|(id, token)| {
            json!({
                "id": id, "content": token.content, "special": token.special, "normalized": token.normalized,
                "lstrip": token.lstrip, "rstrip": token.rstrip, "single_word": token.single_word,
            })
        })
        .collect();
    let byte_level = |prefix_space: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": false, "use_regex": false});
    let split = json!({"type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Isolated", "invert": false});
    let document = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": records,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level(prefix_space)]},
        "post_processor": null,
        "decoder": byte_level(false),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": read_merges(&folder.join("merges.txt"))?,
        },
    });
    let inner: tokenizers::Tokenizer =
        serde_json::from_value(document).map_err(|error| broken_tokenizer(&folder.join("vocab.json"), error))?;
    for (&id, token) in &added {
        if inner.token_to_id(&token.content) != Some(id) {
            let reason = format!("`{}` should be token {id}, but the vocabulary gives it another id", token.content);
            return Err(ModelError::invalid(folder.join("added_tokens.json"), reason));
        }
    }
    Ok(inner)
}

/// Added tokens by id: from `tokenizer_config.json`, otherwise from `added_tokens.json`, where those named by either
/// config are special.
fn added_tokens(folder: &Path, mut config: TokenizerConfig) -> LoadResult<BTreeMap<u32, AddedToken>> {
    let mut added = BTreeMap::new();
    for (id, token) in std::mem::take(&mut config.added_tokens_decoder) {
        let id = id.parse().map_err(|_| {
            let reason = format!("`added_tokens_decoder` numbers a token `{id}`");
            ModelError::invalid(folder.join("tokenizer_config.json"), reason)
        })?;
        added.insert(id, token);
    }
    let map: TokenizerConfig = read_optional(&folder.join("special_tokens_map.json"))?;
    let specials: BTreeSet<String> = config.specials().chain(map.specials()).collect();
    for (content, id) in read_optional::<BTreeMap<String, u32>>(&folder.join("added_tokens.json"))? {
        let special = specials.contains(&content);
        added.entry(id).or_insert(AddedToken {
            content,
            special,
            lstrip: false,
            rstrip: false,
            normalized: false,
            single_word: false,
        });
    }
    Ok(added)
}

/// Pairs to merge, most frequent first.
fn read_merges(path: &Path) -> LoadResult<Vec<[String; 2]>> {
    let text = fs::read_to_string(path).map_err(|error| {
        ModelError::invalid(path, format!("cannot be read ({error}); the checkpoint is not complete"))
    })?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with("#version"));
    lines
        .map(|(number, line)| match line.split_once(' ') {
            Some((left, right)) => Ok([left.to_owned(), right.to_owned()]),
            None => Err(ModelError::invalid(path, format!("line {} is not a pair: `{line}`", number + 1))),
        })
        .collect()
}

fn read_optional<T: serde::de::DeserializeOwned + Default>(path: &Path) -> LoadResult<T> {
    if path.is_file() { read_json(path) } else { Ok(T::default()) }
}
