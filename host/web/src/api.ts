// The host's API as the page uses it. The token lives for the tab, in sessionStorage; there are no cookies.
import { useCallback, useEffect, useRef, useState } from "react";

const TOKEN = "orchestrix.token";

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (value: string) => sessionStorage.setItem(TOKEN, value),
  clear: () => sessionStorage.removeItem(TOKEN),
};

/** An error as the host tells it: problem+json, with where and how to mend it. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

export async function call<T>(path: string, init: RequestInit = {}): Promise<T> {
  const response = await fetch(path, {
    ...init,
    headers: { authorization: `Bearer ${token.get() ?? ""}`, ...init.headers },
  });
  if (response.status === 401) {
    token.clear();
    window.dispatchEvent(new Event("orchestrix:signed-out"));
  }
  const text = await response.text();
  let body: unknown = null;
  try {
    body = text === "" ? null : JSON.parse(text);
  } catch {
    body = text;
  }
  if (!response.ok) {
    const problem = (body ?? {}) as { detail?: string; title?: string; code?: string; error?: string };
    throw new Problem(response.status, problem.code ?? "", problem.detail ?? problem.title ?? problem.error ?? `HTTP ${response.status}`);
  }
  return body as T;
}

export const post = <T>(path: string, body?: unknown) =>
  call<T>(path, {
    method: "POST",
    headers: body === undefined ? {} : { "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });

export type Loaded<T> = { data: T | undefined; error: Error | undefined; reload: () => void };

/** Loads `path`, again every `everyMs`, and whenever `reload` is called. An old answer never overwrites a newer one. */
export function useLoad<T>(path: string | null, everyMs = 0): Loaded<T> {
  const [data, setData] = useState<T>();
  const [error, setError] = useState<Error>();
  const turn = useRef(0);
  const load = useCallback(() => {
    if (path === null) return;
    const mine = ++turn.current;
    call<T>(path).then(
      (value) => mine === turn.current && (setData(value), setError(undefined)),
      (problem: Error) => mine === turn.current && setError(problem),
    );
  }, [path]);
  useEffect(() => {
    setData(undefined);
    load();
    if (everyMs === 0) return;
    const timer = setInterval(() => document.visibilityState === "visible" && load(), everyMs);
    return () => clearInterval(timer);
  }, [load, everyMs]);
  return { data, error, reload: load };
}

/** A CloudEvent of the bus. */
export type BusEvent = { id: string; type: string; source: string; subject?: string; time?: string; data?: unknown };

/** Follows the event stream, with the token in a header, which EventSource can't send. Reconnects by Last-Event-ID. */
export function useEvents(onEvent: (event: BusEvent) => void): boolean {
  const [live, setLive] = useState(false);
  const handler = useRef(onEvent);
  handler.current = onEvent;
  useEffect(() => {
    const abort = new AbortController();
    let last = "";
    const follow = async () => {
      while (!abort.signal.aborted) {
        try {
          const response = await fetch("/api/v1/events/stream", {
            headers: { authorization: `Bearer ${token.get() ?? ""}`, ...(last && { "last-event-id": last }) },
            signal: abort.signal,
          });
          if (response.ok && response.body) {
            setLive(true);
            const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
            let buffer = "";
            for (;;) {
              const { value, done } = await reader.read();
              if (done) break;
              buffer += value;
              const blocks = buffer.split("\n\n");
              buffer = blocks.pop() ?? "";
              for (const block of blocks) {
                const field = (name: string) =>
                  block
                    .split("\n")
                    .filter((line) => line.startsWith(`${name}:`))
                    .map((line) => line.slice(name.length + 1).trimStart())
                    .join("\n");
                last = field("id") || last;
                const data = field("data");
                if (data) handler.current(JSON.parse(data) as BusEvent);
              }
            }
          }
        } catch {
          // The host went away, or the page did: try again, or leave the loop.
        }
        setLive(false);
        await new Promise((wake) => setTimeout(wake, 2_000));
      }
    };
    void follow();
    return () => abort.abort();
  }, []);
  return live;
}

export type Items<T> = { items: T[] };

export type Alert = {
  id: string;
  labels: Record<string, string>;
  annotations: Record<string, string>;
  state: "inactive" | "pending" | "firing" | "resolved";
  activeAt: string;
  value?: string;
  summary?: string;
  severity?: string;
  fingerprint?: string;
  monitor?: string;
  evidence?: unknown;
  isSilenced?: boolean;
  flapScore?: number;
  firedAt?: string | null;
  resolvedAt?: string | null;
};

export type TimelineRow = { at: string; from: string | null; to: string; reason: string; value: number | null };

export type Silence = {
  id: string;
  matchers: { name: string; value: string; isRegex: boolean; isEqual: boolean }[];
  endsAt: string;
  createdBy: string;
  comment: string;
  status: { state: "active" | "pending" | "expired" };
};

/** Why a run does not go on: an action, a timer, an event, a child run, or a person (`approval`, `decision`, `resume`). */
export type Wait = {
  for: "action" | "timer" | "retry" | "event" | "approval" | "decision" | "run" | "resume";
  step?: string;
  since?: string;
  until?: string;
  installation?: string;
  operation?: string;
  attempt?: number;
  note?: unknown;
  error?: unknown;
};

export type Run = {
  id: string;
  name: string;
  version: string;
  status: string;
  alert: string | null;
  cause: unknown;
  waits: Wait[];
  asks: boolean;
  parent: string | null;
  stepCount: number;
  started: string;
  ended: string | null;
  input: unknown;
  output: unknown;
  error: unknown;
};

export type Step = {
  path: string;
  parent: string | null;
  name: string;
  kind: string;
  status: string;
  input: unknown;
  output: unknown;
  error: unknown;
  started: string;
  ended: string | null;
  attempts: number;
  request: unknown;
};

export type Grant = {
  http: { hosts: string[]; methods: string[]; path_prefix: string }[];
  sockets: string[];
  telemetry: string[];
  state_bytes: number;
  reveal: boolean;
};

export type Plugin = {
  name: string;
  plugin: string;
  version: string;
  digest: string;
  enabled: boolean;
  isLoaded: boolean;
  problem: string | null;
  grant: Grant;
  secrets: Record<string, { secret: string }>;
  config: unknown;
};

export type Meter = {
  function: string;
  version: string;
  calls: number;
  failures: number;
  faults: number;
  cpuUs: number;
  wallUs: number;
  memoryBytesPeak: number;
  httpBytesSent: number;
  httpBytesReceived: number;
  denials: number;
};

export type Operation = { name: string; title?: string; risk?: string; idempotent?: boolean; repeatable?: boolean; reversible?: boolean };

export type PluginShown = Plugin & {
  asked?: Grant;
  meters: Meter[];
  manifest?: { name?: string; description?: string; license?: string; kinds?: string[]; operations?: Operation[] };
};

export type Invocation = {
  id: number;
  invocation: string;
  plugin: string;
  function: string;
  run: string | null;
  status: string;
  started: string;
  wallUs: number;
  cpuUs: number;
  memoryBytes: number;
};

export type Outcome = { status: "ok"; value: unknown } | { status: "err"; error: unknown };

export type InvocationShown = Invocation & {
  recording: {
    request: unknown;
    calls: { import: string; at_us: number; took_us: number; arguments: unknown; result: Outcome }[];
    calls_dropped: number;
    outcome: Outcome;
    is_truncated: boolean;
  } | null;
};

type Effect = { kind: string; target: string; summary: string; before?: unknown; after?: unknown; undo?: unknown };

export type LedgerRow = {
  id: number;
  at: string;
  entry: "begun" | "settled" | "refused";
  /** The row that a settled one settles. */
  begun: number | null;
  hash: string;
  body: {
    effect?: Effect;
    status?: string;
    reason?: string;
    guardrail?: string;
    detail?: unknown;
    caller?: { installation?: string; run?: string | null; step?: string | null };
  };
};

export type Span = {
  traceId: string;
  spanId: string;
  parentSpanId: string;
  service: string;
  name: string;
  kind: string;
  status: string;
  statusMessage: string;
  start: string;
  end: string;
  durationMs: number;
  attributes: unknown;
  resource: unknown;
  events: unknown[];
};
