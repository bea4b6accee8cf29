//! The placement of a checkpoint's parts, while idle and while computing.

use crate::models::BlockPlacement;

/// The placement of one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComponentPlacement {
    /// On the device only while it computes; otherwise permanently.
    pub in_turn: bool,
    /// Where its repeated blocks are while it computes.
    pub blocks: BlockPlacement,
}

impl ComponentPlacement {
    /// Permanently on the device.
    pub const KEPT: Self = Self { in_turn: false, blocks: BlockPlacement::OnDevice };
    /// On the device while it computes, with all of its blocks.
    pub const IN_TURN: Self = Self { in_turn: true, blocks: BlockPlacement::OnDevice };

    /// In turn, with all blocks except the first ones streamed.
    pub fn streamed(resident: usize) -> Self {
        Self { in_turn: true, blocks: BlockPlacement::Streamed { resident } }
    }
}

/// The placement of all parts of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMap {
    /// The text encoder, with its vision tower.
    pub text_encoder: ComponentPlacement,
    /// The transformer.
    pub transformer: ComponentPlacement,
    /// The VAE.
    pub vae: ComponentPlacement,
}

impl DeviceMap {
    /// Everything stays on the device.
    pub const KEPT: Self = Self {
        text_encoder: ComponentPlacement::KEPT,
        transformer: ComponentPlacement::KEPT,
        vae: ComponentPlacement::KEPT,
    };
}
