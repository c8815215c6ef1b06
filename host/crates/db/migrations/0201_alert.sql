-- One row an episode. `is_current` marks the newest episode of a thing (monitor + finding labels).
CREATE TABLE alert (
  id TEXT PRIMARY KEY,
  tenant TEXT NOT NULL,
  monitor TEXT NOT NULL,
  thing TEXT NOT NULL,
  state TEXT NOT NULL,
  is_current BIGINT NOT NULL,
  -- What the last finding said (1: firing), and when that changed lately, as JSON nanoseconds: the flap score.
  verdict BIGINT NOT NULL,
  flips TEXT NOT NULL,
  -- Whether the bus has been told that it fires.
  is_announced BIGINT NOT NULL,
  -- When it resolves by itself unless seen again; 0 is never.
  stale_at_ns BIGINT NOT NULL,
  updated_ns BIGINT NOT NULL,
  body TEXT NOT NULL
);
CREATE UNIQUE INDEX alert_current ON alert (tenant, monitor, thing) WHERE is_current = 1;
CREATE INDEX alert_by_state ON alert (tenant, state, updated_ns);
CREATE TABLE alert_timeline (id {id}, tenant TEXT NOT NULL, alert TEXT NOT NULL, at_ns BIGINT NOT NULL, body TEXT NOT NULL);
CREATE INDEX alert_timeline_by_alert ON alert_timeline (tenant, alert, id);
