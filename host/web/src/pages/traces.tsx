// Traces: spans by service, and one trace as a waterfall.
import { type FormEvent, useMemo, useState } from "react";
import { Link } from "wouter";
import { type Items, type Span, useLoad } from "../api";
import { Attributes, Badge, Empty, Failed, Panel, RANGES, RangeChoice, Scroll, clock, micros } from "../parts";

export function Traces() {
  const [service, setService] = useState("");
  const [isFailed, setFailed] = useState(false);
  const [slow, setSlow] = useState("");
  const [range, setRange] = useState<number>(RANGES[1][1]);
  const [now, setNow] = useState(() => Date.now());
  const bounds = { start: new Date(now - range * 1000).toISOString(), end: new Date(now).toISOString() };
  const services = useLoad<Items<string>>(`/api/v1/services?${new URLSearchParams(bounds)}`);
  const query = new URLSearchParams({ ...bounds, limit: "100", ...(service && { service }), ...(isFailed && { status: "error" }), ...(slow && { minDuration: slow }) });
  const spans = useLoad<Items<Span>>(`/api/v1/traces?${query}`);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    setNow(Date.now());
  };
  return (
    <>
      <h1>Traces</h1>
      <form className="query" onSubmit={submit}>
        <select aria-label="Service" value={service} onChange={(e) => setService(e.target.value)}>
          <option value="">all services</option>
          {services.data?.items.map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
        <select aria-label="At least this long" value={slow} onChange={(e) => setSlow(e.target.value)}>
          <option value="">however long</option>
          {["10ms", "100ms", "1s", "10s"].map((d) => (
            <option key={d} value={d}>
              {d} or more
            </option>
          ))}
        </select>
        <label className="check">
          <input type="checkbox" checked={isFailed} onChange={(e) => setFailed(e.target.checked)} /> only failed
        </label>
        <RangeChoice value={range} onChange={(value) => (setRange(value), setNow(Date.now()))} />
        <button type="submit">Search</button>
      </form>
      <Failed error={spans.error ?? services.error} />
      <Empty when={spans.data?.items.length === 0}>No span in this range is like this.</Empty>
      {spans.data && spans.data.items.length > 0 && (
        <Scroll>
          <table>
            <thead>
              <tr>
                <th>When</th>
                <th>Service</th>
                <th>Span</th>
                <th>Status</th>
                <th className="number">Took</th>
              </tr>
            </thead>
            <tbody>
              {spans.data.items.map((span) => (
                <tr key={span.traceId + span.spanId}>
                  <td>{clock(span.start)}</td>
                  <td>{span.service}</td>
                  <td>
                    <Link href={`/traces/${span.traceId}`}>{span.name}</Link> <span className="dim">{span.kind}</span>
                  </td>
                  <td>{span.status === "error" ? <Badge of="failed" /> : <span className="dim">{span.status}</span>}</td>
                  <td className="number">{micros(span.durationMs * 1_000)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
    </>
  );
}

/** A span with its depth below the root. */
type Bar = { span: Span; depth: number };

/** Parents before their children, siblings by time; a span whose parent is missing stands as a root. */
function waterfall(spans: Span[]): Bar[] {
  const known = new Set(spans.map((s) => s.spanId));
  const below = new Map<string, Span[]>();
  for (const span of [...spans].sort((a, b) => a.start.localeCompare(b.start))) {
    const parent = known.has(span.parentSpanId) && span.parentSpanId !== span.spanId ? span.parentSpanId : "";
    below.set(parent, [...(below.get(parent) ?? []), span]);
  }
  const bars: Bar[] = [];
  const seen = new Set<string>();
  const visit = (parent: string, depth: number) => {
    for (const span of below.get(parent) ?? []) {
      if (seen.has(span.spanId)) continue;
      seen.add(span.spanId);
      bars.push({ span, depth });
      visit(span.spanId, depth + 1);
    }
  };
  visit("", 0);
  return bars;
}

export function TracePage({ id }: { id: string }) {
  // Again and again: spans of one trace come in as their senders hand them over.
  const { data, error } = useLoad<Items<Span>>(`/api/v1/traces/${encodeURIComponent(id)}`, 5_000);
  const [chosen, setChosen] = useState<string>();
  const bars = useMemo(() => waterfall(data?.items ?? []), [data]);
  if (!data) {
    return error ? (
      <>
        <Failed error={error} />
        <p className="dim">Senders hand over spans in batches: they may still be on their way, and appear here then.</p>
      </>
    ) : null;
  }
  const starts = data.items.map((s) => new Date(s.start).getTime());
  const from = Math.min(...starts);
  const total = Math.max(0.001, ...data.items.map((s, i) => (starts[i] ?? from) - from + s.durationMs));
  return (
    <>
      <p className="crumbs">
        <Link href="/traces">Traces</Link> /
      </p>
      <h1>Trace</h1>
      <p className="facts">
        <code>{id}</code>
        <span>{data.items.length} spans</span>
        <span>{micros(total * 1_000)}</span>
        <Link href={`/logs?trace=${id}`}>its logs</Link>
      </p>
      <Panel title="Spans">
        <ol className="waterfall">
          {bars.map(({ span, depth }) => (
            <li key={span.spanId} className={span.status === "error" ? "bad" : ""}>
              <button type="button" aria-expanded={chosen === span.spanId} onClick={() => setChosen(chosen === span.spanId ? undefined : span.spanId)}>
                <span style={{ paddingLeft: `${depth}rem` }}>
                  <b>{span.name}</b> <span className="dim">{span.service}</span>
                </span>
                <span className="lane">
                  <i
                    style={{
                      left: `${((new Date(span.start).getTime() - from) / total) * 100}%`,
                      width: `${Math.max(0.4, (span.durationMs / total) * 100)}%`,
                    }}
                  />
                </span>
                <span className="number">{micros(span.durationMs * 1_000)}</span>
              </button>
              {chosen === span.spanId && (
                <div className="inset">
                  {span.statusMessage && <p className="failed">{span.statusMessage}</p>}
                  <Attributes of={span.attributes} title="Attributes" />
                  <Attributes of={span.resource} title="Resource" />
                </div>
              )}
            </li>
          ))}
        </ol>
      </Panel>
    </>
  );
}
