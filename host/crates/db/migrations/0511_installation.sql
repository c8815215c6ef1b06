-- Plugin versions an admin installed. `body` is model::Installation.
CREATE TABLE installation (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  digest TEXT NOT NULL,
  body TEXT NOT NULL,
  updated_ns BIGINT NOT NULL,
  PRIMARY KEY (tenant, name)
);
CREATE INDEX installation_by_digest ON installation (digest);
