//! What a second device is good for: half the time of a job, or twice as many jobs.

use std::{
    sync::{
        Barrier, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use qwen_image::{
    Callbacks, DecomposeOptions, DeviceChoice, PipelineOptions, QwenImagePipeline, compute_pool, hub::ModelRef, nn,
};

use super::{Bench, BenchLine, Failed, parts::scene};

impl Bench<'_> {
    /// The layered pipeline at 640, 4 layers, with the branches of guidance on one device, then on two.
    pub(super) fn guidance(&mut self) -> Result<(), Failed> {
        let second = self.second_device("guidance")?;
        let (scene, options) = (scene(), self.sampling(self.config.preset));
        let mut pictures = None;
        for (name, cfg_parallel_device) in [("serial", None), ("parallel", Some(second))] {
            nn::free_unused(&self.device)?;
            let mut settings = self.options();
            settings.cfg_parallel_device = cfg_parallel_device;
            let start = Instant::now();
            let folder = self.config.folder.display().to_string();
            let mut pipeline = QwenImagePipeline::from_pretrained(&folder, settings)?;
            self.once(&format!("load: layered pipeline, guidance {name}"), start, &[])?;
            for turn in ["first", "second"] {
                let mut callbacks = Callbacks::default();
                nn::reset_peak_memory(&self.device)?;
                let start = Instant::now();
                let (made, used) = pipeline.decompose_with(&scene, &options, &mut callbacks)?;
                let steps = options.num_inference_steps;
                let line = format!("{turn} layered job, guidance {name}, 640, 4 layers, {steps} steps");
                self.once(&line, start, callbacks.timings())?;
                let (passes, parallel) = (made.sampling.passes, made.sampling.parallel_passes);
                let equal = pictures.get_or_insert_with(|| made.images.clone()) == &made.images;
                self.note(&format!("{}: {passes} passes, {parallel} on the second device", used.device), equal);
            }
        }
        Ok(())
    }

    /// Queued jobs of the layered pipeline at 640, 4 layers; a device takes the next one when it is free.
    pub(super) fn throughput(&mut self) -> Result<(), Failed> {
        let devices = [self.config.device, self.second_device("throughput")?];
        let (jobs, options) = (self.config.jobs, self.sampling(self.config.preset));
        for count in [1, 2] {
            nn::free_unused(&self.device)?;
            let pipelines: Vec<_> = devices[..count].iter().map(|device| self.options_on(*device)).collect();
            let took = queued(&ModelRef::Folder(self.config.folder.clone()), &pipelines, &options, jobs)?;
            let milliseconds = took.as_secs_f64() * 1e3;
            let steps = options.num_inference_steps;
            self.tell(BenchLine {
                name: format!("{jobs} layered jobs on {count} devices, 640, 4 layers, {steps} steps"),
                milliseconds,
                runs: vec![milliseconds],
                operations: None,
                bytes: None,
                floor_milliseconds: None,
                peak_bytes: None,
                stages: Vec::new(),
            });
        }
        Ok(())
    }

    fn second_device(&self, part: &str) -> Result<DeviceChoice, Failed> {
        let missing = || format!("--parts {part} needs --second-device, such as cuda:1").into();
        self.config.second_device.ok_or_else(missing)
    }

    fn options_on(&self, device: DeviceChoice) -> PipelineOptions {
        let mut options = self.options();
        options.device = device;
        options
    }
}

/// The time that pipelines with these options, each on its own thread, need for jobs. Each makes one before, so that
/// models and plans are there.
fn queued(
    model: &ModelRef,
    pipelines: &[PipelineOptions],
    options: &DecomposeOptions,
    jobs: usize,
) -> Result<Duration, Failed> {
    let (next, ready) = (AtomicUsize::new(0), Barrier::new(pipelines.len() + 1));
    let failure = Mutex::new(None);
    let work = |settings: &PipelineOptions| -> Result<(), Box<qwen_image::Error>> {
        let _pool = compute_pool();
        let (scene, mut pipeline) = (scene(), QwenImagePipeline::lazy(model.clone(), settings.clone()));
        if let Ok(pipeline) = &mut pipeline {
            let first = pipeline.decompose(&scene, options.clone()).map(drop);
            ready.wait();
            first?;
        } else {
            ready.wait();
        }
        let mut pipeline = pipeline?;
        while next.fetch_add(1, Ordering::Relaxed) < jobs {
            pipeline.decompose(&scene, options.clone())?;
        }
        Ok(())
    };
    let took = thread::scope(|scope| {
        for settings in pipelines {
            let (work, failure) = (&work, &failure);
            scope.spawn(move || {
                if let Err(error) = work(settings) {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            });
        }
        ready.wait();
        Instant::now()
    })
    .elapsed();
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error.into()),
        None => Ok(took),
    }
}
