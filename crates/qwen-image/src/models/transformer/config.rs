//! `transformer/config.json`.

use std::path::Path;

use serde::Deserialize;

use crate::models::{
    LoadResult, ModelError,
    lora::Modules,
    model_index::{self, check_class},
    read_json,
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
