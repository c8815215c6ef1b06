-- Runs of workflows. `state` is the checkpoint from which a run goes on; docs/formats/journal.md
CREATE TABLE run (
  id TEXT PRIMARY KEY,
  tenant TEXT NOT NULL,
  namespace TEXT NOT NULL,
  name TEXT NOT NULL,
  version TEXT NOT NULL,
  revision BIGINT NOT NULL,
  status TEXT NOT NULL,
  -- Names the alert that a run is about; one unfinished run for each. Empty: no single-flight.
  flight TEXT NOT NULL,
  parent TEXT NOT NULL,
  alert TEXT NOT NULL,
  cause TEXT NOT NULL,
  -- What it waits for, as JSON; `asks` is 1 when a person is asked (an approval, a call in doubt).
  waits TEXT NOT NULL,
  asks BIGINT NOT NULL,
  started_ns BIGINT NOT NULL,
  updated_ns BIGINT NOT NULL,
  ended_ns BIGINT NOT NULL,
  input TEXT NOT NULL,
  output TEXT NOT NULL,
  error TEXT NOT NULL,
  steps BIGINT NOT NULL,
  state TEXT NOT NULL
);
CREATE INDEX run_by_start ON run (tenant, started_ns);
CREATE INDEX run_by_name ON run (tenant, name, started_ns);
CREATE INDEX run_by_status ON run (tenant, status, started_ns);
CREATE INDEX run_by_alert ON run (tenant, alert) WHERE alert <> '';
CREATE INDEX run_asking ON run (tenant, started_ns) WHERE asks = 1;
CREATE UNIQUE INDEX run_flight ON run (tenant, flight) WHERE flight <> '' AND ended_ns = 0;
