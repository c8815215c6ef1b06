//! `NAME`: says in a sentence what it does.

use orchestrix_sdk::prelude::*;

/// The installation's configuration.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the service is, such as `https://tickets.example`.
    base_url: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Open {
    title: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ticket {
    id: u64,
}

#[orchestrix_sdk::action]
impl Config {
    #[operation]
    fn open(&self, ctx: &Context, input: Open) -> Result<Ticket> {
        let url = format!("{}/tickets", self.base_url.trim_end_matches('/'));
        let request =
            Request::post(&url).header("idempotency-key", &ctx.idempotency_key).json(&json!({ "title": input.title }))?;
        Effect::new("NAME.open", &url)
            .summary(format!("open the ticket {:?}", input.title))
            .perform(|| request.send()?.success()?.json())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrix_sdk::testing::{World, json as answer};

    #[test]
    fn a_ticket_is_opened_and_announced() {
        let world = World::new();
        world.on_http(|request| {
            assert_eq!(request.url, "https://tickets.example/tickets");
            Ok(answer(201, &json!({ "id": 7 })))
        });
        let config = Config { base_url: "https://tickets.example/".into() };
        let ticket = world.run(|| config.open(&Context::default(), Open { title: "disk full".into() }));
        assert_eq!(ticket, Ok(Ticket { id: 7 }));
        assert_eq!(world.effects()[0].status.as_deref(), Some("done"));
    }
}
