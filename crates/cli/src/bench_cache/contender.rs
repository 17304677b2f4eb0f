//! What takes part in a bench: a policy with its options, or the uncached sampler with fewer steps or in another dtype.

use refrain_ops::Precision;

use crate::errors::{usage, usage_because};

/// One contender of `--policies`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Contender {
    /// A cache policy (or `off`, or a plan file) with its options, as `--cache` and `--cache-option` spell them.
    Policy {
        /// Name or file.
        name: String,
        /// `k=v` each.
        options: Vec<String>,
    },
    /// The uncached sampler with this many steps: the honest rival of every policy.
    Steps(usize),
    /// The uncached sampler with the model in another dtype: what the dtype costs in quality.
    Dtype(Precision),
}

impl Contender {
    /// The uncached run that all others are measured against.
    pub(crate) fn off() -> Self {
        Self::Policy { name: "off".to_owned(), options: Vec::new() }
    }

    /// Reads `name`, `name:k=v+k=v`, `steps:K` or `dtype:D`.
    ///
    /// # Errors
    /// An empty name, a number of steps that is none, or a dtype that does not exist (exit 2).
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let text = text.trim();
        let (name, options) = text.split_once(':').unwrap_or((text, ""));
        if name.is_empty() {
            return Err(usage("--policies: an entry is empty; write for example off,taylor:n=2+order=1,steps:10"));
        }
        if name == "steps" {
            let steps = options.parse().ok().filter(|&steps| steps > 0);
            return steps.map(Self::Steps).ok_or_else(|| {
                usage(format!("--policies: {text:?} needs a number of steps of at least 1, for example steps:10"))
            });
        }
        if name == "dtype" {
            return options.parse().map(Self::Dtype).map_err(|error: refrain_ops::OpsError| usage_because(error));
        }
        let options = options.split('+').filter(|option| !option.is_empty()).map(str::to_owned).collect();
        Ok(Self::Policy { name: name.to_owned(), options })
    }

    /// The spelling that [`Contender::parse`] reads.
    pub(crate) fn spelling(&self) -> String {
        match self {
            Self::Steps(steps) => format!("steps:{steps}"),
            Self::Dtype(precision) => format!("dtype:{precision}"),
            Self::Policy { name, options } if options.is_empty() => name.clone(),
            Self::Policy { name, options } => format!("{name}:{}", options.join("+")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_are_written_as_they_are_read() {
        for text in ["off", "dbcache:threshold=0.1+warmup=2", "steps:6", "dtype:int8"] {
            assert_eq!(Contender::parse(text).unwrap().spelling(), text);
        }
        assert_eq!(Contender::parse(" steps:6 ").unwrap(), Contender::Steps(6));
        for text in ["", ":n=2", "steps", "steps:0", "steps:x", "dtype", "dtype:f8"] {
            assert!(Contender::parse(text).is_err(), "{text}");
        }
    }
}
