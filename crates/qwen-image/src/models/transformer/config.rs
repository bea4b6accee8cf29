//! `transformer/config.json`.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use crate::models::{
    LoadResult, ModelError,
    lora::Modules,
    model_index::{self, check_class},
    read_json,
    weight_files::StoredTensor,
};

/// Channels of the timestep's sinusoids.
pub const TIME_CHANNELS: usize = 256;

/// Names and defaults as in diffusers.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct TransformerConfig {
    #[serde(rename = "_class_name")]
    pub class_name: Option<String>,
    pub patch_size: usize,
    pub in_channels: usize,
    pub out_channels: Option<usize>,
    pub num_layers: usize,
    pub attention_head_dim: usize,
    pub num_attention_heads: usize,
    pub joint_attention_dim: usize,
    pub guidance_embeds: bool,
    pub axes_dims_rope: [usize; 3],
    pub zero_cond_t: bool,
    pub use_additional_t_cond: bool,
    pub use_layer3d_rope: bool,
}

impl Default for TransformerConfig {
    fn default() -> Self {
        Self {
            class_name: None,
            patch_size: 2,
            in_channels: 64,
            out_channels: Some(16),
            num_layers: 60,
            attention_head_dim: 128,
            num_attention_heads: 24,
            joint_attention_dim: 3584,
            guidance_embeds: false,
            axes_dims_rope: [16, 56, 56],
            zero_cond_t: false,
            use_additional_t_cond: false,
            use_layer3d_rope: false,
        }
    }
}

impl TransformerConfig {
    pub fn inner_dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Width of the output: a patch of `patch_size` squared latent pixels.
    pub fn patch_channels(&self) -> usize {
        self.patch_size * self.patch_size * self.out_channels.unwrap_or(self.in_channels)
    }

    /// Reads and checks the file in a component's folder.
    pub fn read(folder: &Path) -> LoadResult<Self> {
        let path = folder.join("config.json");
        let config: Self = read_json(&path)?;
        config.check(&path)?;
        Ok(config)
    }

    /// Checks that this is the transformer of the layered model, or of an edit model.
    pub fn check_is(&self, layered: bool, path: &Path) -> LoadResult<()> {
        let flags =
            [("use_additional_t_cond", self.use_additional_t_cond), ("use_layer3d_rope", self.use_layer3d_rope)];
        let Some((flag, value)) = flags.into_iter().find(|(_, value)| *value != layered) else { return Ok(()) };
        let (this, other) = if layered { ("layers", "edits") } else { ("edits", "layers") };
        let reason = format!(
            "`{flag}` is {value}, as in a model for {other}, but this checkpoint is for {this}; give it the transformer \
             of its own model"
        );
        Err(ModelError::invalid(path, reason))
    }

    /// All linear layers, which are what a LoRA may change.
    pub fn linears(&self) -> Modules {
        let dim = self.inner_dim();
        let mut all = Modules::new();
        let mut add = |name: String, outputs: usize, inputs: usize| {
            all.insert(name, (outputs, inputs));
        };
        for block in 0..self.num_layers {
            let at = format!("transformer_blocks.{block}");
            for name in ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"] {
                add(format!("{at}.attn.{name}"), dim, dim);
            }
            for stream in ["img", "txt"] {
                add(format!("{at}.{stream}_mod.1"), 6 * dim, dim);
                add(format!("{at}.{stream}_mlp.net.0.proj"), 4 * dim, dim);
                add(format!("{at}.{stream}_mlp.net.2"), dim, 4 * dim);
            }
        }
        add("img_in".to_owned(), dim, self.in_channels);
        add("txt_in".to_owned(), dim, self.joint_attention_dim);
        add("time_text_embed.timestep_embedder.linear_1".to_owned(), dim, TIME_CHANNELS);
        add("time_text_embed.timestep_embedder.linear_2".to_owned(), dim, dim);
        add("norm_out.linear".to_owned(), 2 * dim, dim);
        add("proj_out".to_owned(), self.patch_channels(), dim);
        all
    }

    /// The shapes of all tensors, by their names.
    pub fn tensors(&self) -> BTreeMap<String, Vec<usize>> {
        let mut all = BTreeMap::new();
        for (name, (outputs, inputs)) in self.linears() {
            all.insert(format!("{name}.weight"), vec![outputs, inputs]);
            all.insert(format!("{name}.bias"), vec![outputs]);
        }
        for block in 0..self.num_layers {
            for norm in ["norm_q", "norm_k", "norm_added_q", "norm_added_k"] {
                all.insert(format!("transformer_blocks.{block}.attn.{norm}.weight"), vec![self.attention_head_dim]);
            }
        }
        all.insert("txt_norm.weight".to_owned(), vec![self.joint_attention_dim]);
        if self.use_additional_t_cond {
            all.insert("time_text_embed.addition_t_embedding.weight".to_owned(), vec![2, self.inner_dim()]);
        }
        all
    }

    /// Compares all tensors of a file or folder with the configuration, without reading them.
    ///
    /// # Errors
    /// [`ModelError::WrongShape`], [`ModelError::MissingTensor`] or [`ModelError::UnexpectedTensor`].
    pub fn check_tensors(&self, path: &Path, found: &BTreeMap<String, StoredTensor>) -> LoadResult<()> {
        let needed = self.tensors();
        let path = || path.to_owned();
        // A matrix says more about another model than its bias.
        let matrices_first =
            [2, 1].into_iter().flat_map(|rank| needed.iter().filter(move |(_, shape)| shape.len() == rank));
        let both = matrices_first.filter_map(|(name, shape)| Some((name, shape, &found.get(name)?.shape)));
        if let Some((name, expected, found)) = both.into_iter().find(|(_, expected, found)| expected != found) {
            let (found, expected) = (found.clone(), expected.clone());
            return Err(ModelError::WrongShape { path: path(), name: name.clone(), found, expected });
        }
        if let Some(name) = needed.keys().find(|name| !found.contains_key(*name)) {
            return Err(ModelError::MissingTensor { path: path(), name: name.clone() });
        }
        let mut more = found.keys().filter(|name| !needed.contains_key(*name));
        match more.next() {
            Some(name) => {
                Err(ModelError::UnexpectedTensor { path: path(), name: name.clone(), count: more.count() + 1 })
            }
            None => Ok(()),
        }
    }

    /// The configuration that a file's tensors are of. What it does not show is as in the full models.
    pub fn of_tensors(found: &BTreeMap<String, StoredTensor>) -> Self {
        let size = |name: &str, dim: usize| found.get(name).and_then(|stored| stored.shape.get(dim)).copied();
        let full = Self::default();
        let head = size("transformer_blocks.0.attn.norm_q.weight", 0).filter(|size| *size > 0);
        let attention_head_dim = head.unwrap_or(full.attention_head_dim);
        let width = size("img_in.weight", 0).unwrap_or(full.inner_dim());
        let block = |name: &String| name.strip_prefix("transformer_blocks.")?.split('.').next()?.parse::<usize>().ok();
        let out_channels = size("proj_out.weight", 0).map(|size| size / (full.patch_size * full.patch_size));
        Self {
            in_channels: size("img_in.weight", 1).unwrap_or(full.in_channels),
            out_channels: out_channels.or(full.out_channels),
            num_layers: found.keys().filter_map(block).max().map_or(0, |last| last + 1).min(found.len()),
            attention_head_dim,
            num_attention_heads: width / attention_head_dim,
            joint_attention_dim: size("txt_in.weight", 1).unwrap_or(full.joint_attention_dim),
            use_additional_t_cond: found.contains_key("time_text_embed.addition_t_embedding.weight"),
            ..full
        }
    }

    pub fn check(&self, path: &Path) -> LoadResult<()> {
        check_class(path, self.class_name.as_deref(), model_index::TRANSFORMER)?;
        let fail = |reason: String| Err(ModelError::invalid(path, reason));
        if self.guidance_embeds {
            return fail("`guidance_embeds` is true; guidance-distilled checkpoints are not supported".into());
        }
        if self.num_layers == 0 || self.inner_dim() == 0 {
            return fail("describes an empty model (`num_layers`, `num_attention_heads`, `attention_head_dim`)".into());
        }
        let axes: usize = self.axes_dims_rope.iter().sum();
        if axes != self.attention_head_dim || self.axes_dims_rope.iter().any(|axis| axis % 2 != 0) {
            return fail(format!(
                "`axes_dims_rope` {:?} must be even and add up to `attention_head_dim`, {}",
                self.axes_dims_rope, self.attention_head_dim
            ));
        }
        if self.patch_channels() != self.in_channels {
            return fail(format!(
                "`in_channels` {} must equal the {} channels of an output patch",
                self.in_channels,
                self.patch_channels()
            ));
        }
        Ok(())
    }
}
