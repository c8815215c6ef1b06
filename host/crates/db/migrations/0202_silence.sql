CREATE TABLE silence (
  id TEXT PRIMARY KEY,
  tenant TEXT NOT NULL,
  matchers TEXT NOT NULL,
  starts_ns BIGINT NOT NULL,
  ends_ns BIGINT NOT NULL,
  created_by TEXT NOT NULL,
  comment TEXT NOT NULL,
  updated_ns BIGINT NOT NULL
);
CREATE INDEX silence_by_end ON silence (tenant, ends_ns);
