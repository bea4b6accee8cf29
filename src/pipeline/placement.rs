//! Where the parts of a checkpoint are while they do not compute, and while they do.

use crate::models::Blocks;

/// Of one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// On the device only while it computes; otherwise it stays there.
    pub in_turn: bool,
    pub blocks: Blocks,
}

impl Place {
    pub const KEPT: Self = Self { in_turn: false, blocks: Blocks::OnDevice };
    pub const IN_TURN: Self = Self { in_turn: true, blocks: Blocks::OnDevice };

    /// In turn, and all blocks but the first ones one after the other.
    pub fn streamed(resident: usize) -> Self {
        Self { in_turn: true, blocks: Blocks::Streamed { resident } }
    }
}

/// Of all parts of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    pub text_encoder: Place,
    pub transformer: Place,
    pub vae: Place,
}

impl Placement {
    /// All of it stays on the device.
    pub const KEPT: Self = Self { text_encoder: Place::KEPT, transformer: Place::KEPT, vae: Place::KEPT };
}
