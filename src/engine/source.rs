//! The model that tiles go through, at the γ of the moment.

use super::graph::{cuda_graph, recorded};
use super::pass::Forward;
use crate::Result;
use crate::config::ModelConfig;
use crate::model::OsddModel;
use crate::nn::{Params, Products};
use crate::weights::Merged;

/// Weights, and what is built of them.
pub(super) struct Source {
    config: ModelConfig,
    weights: Merged,
    products: Products,
    /// Keeps for all models of these weights what does not depend on the image.
    folded: OsddModel,
    /// The γ that it was kept for; `None` where that is not certain.
    folded_gamma: Option<f64>,
    /// The model's work is recorded.
    graphs: bool,
}

impl Source {
    /// # Errors
    /// Weights that make no model.
    pub fn new(config: ModelConfig, weights: Merged, products: Products, graphs: bool) -> Result<Self> {
        Ok(Source {
            folded: model(&config, &weights, products)?,
            folded_gamma: None,
            config,
            weights,
            products,
            graphs,
        })
    }

    /// Of all models that were made here, and will be.
    ///
    /// # Errors
    /// A failure of the device.
    ///
    /// # Panics
    /// Too little memory.
    pub fn set_gamma(&mut self, gamma: f64) -> Result<()> {
        if self.folded_gamma != Some(gamma) {
            self.folded_gamma = None;
            self.weights.set_gamma(gamma)?;
            self.folded.fold();
            self.folded_gamma = Some(gamma);
        }
        Ok(())
    }

    /// A model of the weights, whose memory it shares.
    ///
    /// # Errors
    /// None in practice: the same has been made before.
    pub fn model(&self) -> Result<Forward> {
        let mut model = model(&self.config, &self.weights, self.products)?;
        model.share_fold(&self.folded);
        Ok(Box::new(move |tiles| model.forward(tiles)))
    }

    /// As [`model`](Self::model), recorded where that is asked for.
    ///
    /// # Errors
    /// As there.
    pub fn forward(&self) -> Result<Forward> {
        let model = self.model()?;
        Ok(match self.graphs {
            true => recorded(model, cuda_graph),
            false => model,
        })
    }
}

fn model(config: &ModelConfig, weights: &Merged, products: Products) -> Result<OsddModel> {
    OsddModel::new(&Params::new(weights.tensors()).with_products(products), config)
}
