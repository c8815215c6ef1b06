-- API tokens. Only the SHA-256 of a token is stored: the token itself has 256 random bits.
CREATE TABLE token (
  id TEXT PRIMARY KEY,
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  role TEXT NOT NULL,
  hash TEXT NOT NULL,
  created_ns BIGINT NOT NULL,
  expires_ns BIGINT NOT NULL,
  revoked_ns BIGINT NOT NULL
);
CREATE UNIQUE INDEX token_by_hash ON token (hash);
CREATE INDEX token_by_tenant ON token (tenant, name);
