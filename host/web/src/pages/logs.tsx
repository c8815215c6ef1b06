// Explore logs: newest first, with their counts over time.
import { type FormEvent, useMemo, useState } from "react";
import { useLoad } from "../api";
import { Chart, type Line } from "../chart";
import { Empty, Failed, Json, Panel } from "../parts";

type LogRow = {
  time: string;
  severityText?: string;
  severityNumber?: number;
  body: string;
  resource?: Record<string, unknown>;
  attributes?: Record<string, unknown>;
  traceId?: string;
};
type Bucket = { start: string; severity: string; count: number };

const RANGE_S = 3_600;
const STEP_S = 30;

export function Logs() {
  const [text, setText] = useState("");
  const [query, setQuery] = useState("");
  const [now, setNow] = useState(() => Date.now());
  const [open, setOpen] = useState<number>();
  const range = { query, start: new Date(now - RANGE_S * 1000).toISOString(), end: new Date(now).toISOString() };
  const logs = useLoad<{ items: LogRow[]; truncated?: boolean }>(`/api/v1/logs?${new URLSearchParams({ ...range, limit: "200" })}`);
  const counts = useLoad<{ items: Bucket[] }>(`/api/v1/logs/histogram?${new URLSearchParams({ ...range, step: String(STEP_S) })}`);
  const lines = useMemo<Line[]>(() => {
    const by = new Map<string, [number, number][]>();
    for (const bucket of counts.data?.items ?? []) {
      const points = by.get(bucket.severity) ?? [];
      points.push([new Date(bucket.start).getTime() / 1000, bucket.count]);
      by.set(bucket.severity, points);
    }
    return [...by].map(([label, points]) => ({ label, points }));
  }, [counts.data]);
  const run = (event: FormEvent) => {
    event.preventDefault();
    setOpen(undefined);
    setNow(Date.now());
    setQuery(text.trim());
  };
  return (
    <>
      <h1>Logs</h1>
      <form className="query" onSubmit={run}>
        <input
          aria-label="Log query"
          placeholder='{service_name="shop"} |= "timeout"   or plain words'
          spellCheck={false}
          value={text}
          onChange={(e) => setText(e.target.value)}
        />
        <button type="submit">Search</button>
      </form>
      <Failed error={logs.error ?? counts.error} />
      {lines.length > 0 && <Chart lines={lines} height={120} bars />}
      <Empty when={logs.data?.items.length === 0}>No record of the last hour matches.</Empty>
      {logs.data && logs.data.items.length > 0 && (
        <Panel title="Records" aside={<span className="dim">{logs.data.items.length} newest of the last hour</span>}>
          <ol className="log">
            {logs.data.items.map((row, i) => (
              <li key={i} className={(row.severityText ?? "").toLowerCase()}>
                <button type="button" onClick={() => setOpen(open === i ? undefined : i)}>
                  <time>{new Date(row.time).toLocaleTimeString(undefined, { hour12: false, fractionalSecondDigits: 3 })}</time>
                  <b>{row.severityText || "–"}</b>
                  <span>{row.body}</span>
                </button>
                {open === i && <Json of={{ resource: row.resource, attributes: row.attributes, traceId: row.traceId }} />}
              </li>
            ))}
          </ol>
        </Panel>
      )}
    </>
  );
}
