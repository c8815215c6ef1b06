-- Requests taken over from the hand-off. A row that is not done after a crash is looked at again.
CREATE TABLE action_call (
  request TEXT PRIMARY KEY,
  tenant TEXT NOT NULL,
  is_done BIGINT NOT NULL,
  taken_ns BIGINT NOT NULL,
  done_ns BIGINT NOT NULL,
  body TEXT NOT NULL,
  outcome TEXT NOT NULL
);
CREATE INDEX action_call_open ON action_call (is_done, taken_ns);
-- The effect ledger: append only, hash-chained per tenant. docs/formats/ledger.md
CREATE TABLE ledger (
  id {id},
  tenant TEXT NOT NULL,
  at_ns BIGINT NOT NULL,
  -- begun | settled | refused
  entry TEXT NOT NULL,
  -- The begun row that a settled row ends; 0 otherwise.
  begun BIGINT NOT NULL,
  request TEXT NOT NULL,
  body TEXT NOT NULL,
  previous_hash TEXT NOT NULL,
  hash TEXT NOT NULL
);
CREATE INDEX ledger_by_tenant ON ledger (tenant, id);
CREATE INDEX ledger_by_request ON ledger (tenant, request);
CREATE INDEX ledger_by_begun ON ledger (tenant, begun);
CREATE TABLE guardrail (
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  spec TEXT NOT NULL,
  updated_ns BIGINT NOT NULL,
  PRIMARY KEY (tenant, name)
);
-- What a budget has spent: one row an effect, deleted when it leaves the window.
CREATE TABLE budget_use (tenant TEXT NOT NULL, guardrail TEXT NOT NULL, at_ns BIGINT NOT NULL, ledger BIGINT NOT NULL);
CREATE INDEX budget_use_by_guardrail ON budget_use (tenant, guardrail, at_ns);
