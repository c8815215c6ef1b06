//! `NAME`: says in a sentence what it finds.

use orchestrix_sdk::prelude::*;

/// The monitor's parameters.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Fires above it.
    limit: f64,
}

#[orchestrix_sdk::detector]
impl Detector for Params {
    fn evaluate(&self, _ctx: &Context, input: &[Series]) -> Result<Vec<Finding>> {
        Ok(input.iter().filter_map(|series| self.judge(series)).collect())
    }
}

impl Params {
    fn judge(&self, series: &Series) -> Option<Finding> {
        let value = *series.values.last()?;
        let is_over = value > self.limit;
        Some(Finding {
            labels: series.labels.iter().filter(|(name, _)| name != "__name__").cloned().collect(),
            status: if is_over { Status::Firing } else { Status::Ok },
            score: if is_over { 1.0 } else { 0.0 },
            severity: "warning".into(),
            summary: format!("{value} is over {}", self.limit),
            value: Some(value),
            evidence: json!({ "limit": self.limit }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrix_sdk::testing::World;

    #[test]
    fn a_value_over_the_limit_fires() {
        let series = Series { labels: vec![("job".into(), "shop".into())], times: vec![1], values: vec![5.0] };
        let findings = World::new().run(|| Params { limit: 3.0 }.evaluate(&Context::default(), &[series])).unwrap();
        assert_eq!(findings[0].status, Status::Firing);
    }
}
