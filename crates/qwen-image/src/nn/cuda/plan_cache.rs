//! cuDNN's plans by shape: made once, and a shape that it refuses is remembered as well.

use std::{cell::RefCell, collections::HashMap, hash::Hash, rc::Rc};

use candle_core::Result;

use super::cudnn::ExecutionPlan;

pub struct PlanCache<K>(RefCell<HashMap<K, Option<Rc<ExecutionPlan>>>>);

impl<K> Default for PlanCache<K> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<K: Hash + Eq + Clone> PlanCache<K> {
    /// The plan for `key`; none when it cannot be made, which `refused` is told the first time.
    pub fn get(
        &self,
        key: &K,
        make: impl FnOnce() -> Result<ExecutionPlan>,
        refused: impl FnOnce(candle_core::Error),
    ) -> Option<Rc<ExecutionPlan>> {
        if let Some(known) = self.0.borrow().get(key) {
            return known.clone();
        }
        let made = make().map(Rc::new).map_err(refused).ok();
        self.0.borrow_mut().insert(key.clone(), made.clone());
        made
    }
}
