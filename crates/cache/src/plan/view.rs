//! A plan for reading: JSON for `inspect`, one string of letters per site.

use serde_json::{Value, json};

use super::{Plan, Planned};

impl Planned {
    /// One letter: `.` absent, `C` compute, `R` reuse, `F` forecast, `-` covered.
    pub fn letter(self) -> char {
        match self {
            Self::Absent => '.',
            Self::Compute => 'C',
            Self::Reuse => 'R',
            Self::Forecast(_) => 'F',
            Self::Covered => '-',
        }
    }
}

impl Plan {
    /// A site's actions as letters, first step first.
    pub fn letters(&self, column: usize) -> String {
        (0..self.steps).map(|step| self.at(step, column).letter()).collect()
    }

    /// The plan as JSON for people: header, hash, share computed, and per site its letters and the
    /// coefficients of its forecasts by step.
    pub fn to_json(&self) -> Value {
        let sites = self.sites.iter().enumerate().map(|(column, site)| {
            let forecasts: serde_json::Map<String, Value> = (0..self.steps)
                .filter_map(|step| match self.at(step, column) {
                    Planned::Forecast(weights) => Some((step.to_string(), json!(weights.as_slice()))),
                    _ => None,
                })
                .collect();
            let mut entry = json!({ "site": site, "actions": self.letters(column) });
            if !forecasts.is_empty() {
                entry["forecasts"] = Value::Object(forecasts);
            }
            entry
        });
        json!({
            "header": self.header,
            "hash": self.hash(),
            "steps": self.steps,
            "computed_share": self.computed_share(),
            "legend": "C compute, R reuse, F forecast, - covered by an outer site, . not visited",
            "sites": sites.collect::<Vec<_>>(),
        })
    }
}
