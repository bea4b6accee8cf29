//! `acetate run composite`.

use clap::Args;

use super::{
    drive::{LocalJob, drive},
    flags::{JobFlags, input, with_whole_ids},
};
use crate::{
    cli::{Failure, global::GlobalArgs},
    job::{CompositeParams, Inputs, JobKind, Task},
};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  acetate run composite out/scene/layer-01.png green/edited.png --out whole")]
pub struct CompositeArgs {
    /// Layers, back to front: files, or job:ID:LAYER for layers of earlier jobs
    #[arg(required = true, value_name = "LAYER")]
    layers: Vec<String>,
    #[command(flatten)]
    pub job: JobFlags,
}

impl CompositeArgs {
    pub fn run(mut self, global: &GlobalArgs) -> Result<(), Failure> {
        let loaded = global.load(Vec::new())?;
        with_whole_ids(&loaded, &mut self.layers)?;
        let inputs =
            Inputs::named(JobKind::Composite, self.layers.iter().map(|layer| input(layer)).collect::<Result<_, _>>()?);
        drive(global, loaded, LocalJob { task: Task::Composite(CompositeParams::default()), inputs, flags: self.job })
    }
}
