//! `NAME`: says in a sentence what it finds.

use orchestrix_sdk::prelude::*;

/// The monitor's parameters.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Fires above it.
    limit: f64,
}

#[orchestrix_sdk::stream_detector]
impl StreamDetector for Params {
    fn observe(&self, _ctx: &Context, batch: &Batch) -> Result<Vec<Finding>> {
        let Batch::Logs(logs) = batch else { return Ok(Vec::new()) };
        let seen: u64 = state::get_json("seen")?.unwrap_or(0) + logs.len() as u64;
        state::put_json("seen", &seen)?;
        let is_over = seen as f64 > self.limit;
        Ok(vec![Finding {
            labels: vec![("stream".into(), "all".into())],
            status: if is_over { Status::Firing } else { Status::Ok },
            score: if is_over { 1.0 } else { 0.0 },
            severity: "warning".into(),
            summary: format!("{seen} records"),
            value: Some(seen as f64),
            evidence: json!({ "limit": self.limit }),
        }])
    }

    fn tick(&self, _ctx: &Context) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrix_sdk::testing::World;

    #[test]
    fn what_is_seen_is_counted_across_batches() {
        let batch = Batch::Logs(LogBatch { times: vec![1, 2], ..LogBatch::default() });
        let world = World::new();
        let status = || world.run(|| Params { limit: 3.0 }.observe(&Context::default(), &batch)).unwrap()[0].status;
        assert_eq!([status(), status()], [Status::Ok, Status::Firing]);
    }
}
