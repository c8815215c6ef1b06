CREATE TABLE webhook (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  spec TEXT NOT NULL,
  updated_ns BIGINT NOT NULL,
  PRIMARY KEY (tenant, name)
);
