-- Secrets, sealed with AES-256-GCM; tenant and name are bound in as associated data. docs/guide/security.md
CREATE TABLE secret (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  nonce {bytes} NOT NULL,
  sealed {bytes} NOT NULL,
  hosts TEXT NOT NULL,
  updated_ns BIGINT NOT NULL,
  PRIMARY KEY (tenant, name)
);
