//! Where the parts of a checkpoint are while they do not compute, and while they do.

use crate::models::BlockPlacement;

/// Of one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComponentPlacement {
    /// On the device only while it computes; otherwise it stays there.
    pub in_turn: bool,
    pub blocks: BlockPlacement,
}

impl ComponentPlacement {
    pub const KEPT: Self = Self { in_turn: false, blocks: BlockPlacement::OnDevice };
    pub const IN_TURN: Self = Self { in_turn: true, blocks: BlockPlacement::OnDevice };

    /// In turn, and all blocks but the first ones one after the other.
    pub fn streamed(resident: usize) -> Self {
        Self { in_turn: true, blocks: BlockPlacement::Streamed { resident } }
    }
}

/// Of all parts of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    pub text_encoder: ComponentPlacement,
    pub transformer: ComponentPlacement,
    pub vae: ComponentPlacement,
}

impl Placement {
    /// All of it stays on the device.
    pub const KEPT: Self = Self {
        text_encoder: ComponentPlacement::KEPT,
        transformer: ComponentPlacement::KEPT,
        vae: ComponentPlacement::KEPT,
    };
}
