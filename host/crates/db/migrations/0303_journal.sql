-- What happened in a run, in order: one row a transition, its body a JSON array of entries.
CREATE TABLE journal (
  tenant TEXT NOT NULL,
  run TEXT NOT NULL,
  seq BIGINT NOT NULL,
  at_ns BIGINT NOT NULL,
  body TEXT NOT NULL,
  PRIMARY KEY (run, seq)
);
