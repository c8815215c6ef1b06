-- Monitors: what is watched, how each fares, and where stream detectors stand. docs/guide/monitors.md
CREATE TABLE monitor (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  id TEXT NOT NULL,
  spec TEXT NOT NULL,
  updated_ns BIGINT NOT NULL,
  PRIMARY KEY (tenant, name)
);
CREATE UNIQUE INDEX monitor_by_id ON monitor (id);
-- What must survive a restart: consecutive failures, and the label sets that missing data is told by.
CREATE TABLE monitor_state (
  id TEXT PRIMARY KEY,
  tenant TEXT NOT NULL,
  failures BIGINT NOT NULL,
  last_error TEXT,
  known TEXT NOT NULL,
  updated_ns BIGINT NOT NULL
);
CREATE TABLE monitor_stream (
  id TEXT PRIMARY KEY,
  tenant TEXT NOT NULL,
  cursor_lsn BIGINT NOT NULL,
  next_tick_ns BIGINT NOT NULL,
  snapshot {bytes},
  updated_ns BIGINT NOT NULL
);
