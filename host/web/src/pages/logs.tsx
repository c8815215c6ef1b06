// Explore logs: newest first, with their counts over time.
import { type FormEvent, useMemo, useState } from "react";
import { Link } from "wouter";
import { useLoad } from "../api";
import { Chart, type Line } from "../chart";
import { Attributes, Empty, Failed, Panel, RANGES, RangeChoice, clock } from "../parts";

type LogRow = {
  time: string;
  severity: string;
  service: string;
  body: unknown;
  resource: unknown;
  attributes: unknown;
  traceId: string;
};
type Bucket = { start: string; severity: string; count: number };

const BARS = 90;
const LINES_MAX = 200;
/** The worst last: drawn over the others, so that three errors among a thousand lines are seen. */
const SEVERITIES: Record<string, string> = {
  unknown: "#8593a3",
  trace: "#8593a3",
  debug: "#7c9ff5",
  info: "#4fb3a5",
  warn: "#e8b04b",
  error: "#e5654b",
  fatal: "#b0304a",
};

export function Logs() {
  const place = new URLSearchParams(window.location.search);
  const asked = place.get("query") ?? "";
  const [trace, setTrace] = useState(place.get("trace") ?? "");
  const [text, setText] = useState(asked);
  const [query, setQuery] = useState(asked);
  const [range, setRange] = useState<number>(RANGES[1][1]);
  const [now, setNow] = useState(() => Date.now());
  const [open, setOpen] = useState<number>();
  const step = Math.max(1, Math.ceil(range / BARS));
  const bounds = { query, ...(trace && { trace }), start: new Date(now - range * 1000).toISOString(), end: new Date(now).toISOString() };
  const logs = useLoad<{ items: LogRow[]; truncated?: boolean }>(`/api/v1/logs?${new URLSearchParams({ ...bounds, limit: String(LINES_MAX) })}`);
  const counts = useLoad<{ items: Bucket[] }>(`/api/v1/logs/histogram?${new URLSearchParams({ ...bounds, step: String(step) })}`);
  const lines = useMemo<Line[]>(() => {
    const items = counts.data?.items ?? [];
    const starts = items.map((b) => new Date(b.start).getTime() / 1000);
    return Object.entries(SEVERITIES).flatMap(([label, colour]) => {
      const counted = new Map<number, number>();
      items.forEach((b, i) => b.severity === label && counted.set(starts[i] ?? 0, b.count));
      return counted.size === 0 ? [] : [{ label, colour, points: [...new Set(starts)].map((t) => [t, counted.get(t) ?? 0] as [number, number]) }];
    });
  }, [counts.data]);
  const run = (event: FormEvent) => {
    event.preventDefault();
    setOpen(undefined);
    setNow(Date.now());
    setQuery(text.trim());
  };
  const error = logs.error ?? counts.error;
  return (
    <>
      <h1>Logs</h1>
      <form className="query" onSubmit={run}>
        <input
          aria-label="Log query"
          placeholder='{service_name="shop"} |= "timeout"   or plain words'
          spellCheck={false}
          autoFocus
          value={text}
          onChange={(e) => setText(e.target.value)}
        />
        <RangeChoice value={range} onChange={(value) => (setRange(value), setNow(Date.now()))} />
        <button type="submit">Search</button>
      </form>
      {trace && (
        <p className="facts">
          <span>
            only of <Link href={`/traces/${trace}`}>this trace</Link>
          </span>
          <button type="button" className="quiet" onClick={() => setTrace("")}>
            show all
          </button>
        </p>
      )}
      <Failed error={error} />
      {!error && lines.length > 0 && (
        <Panel title="Records over time">
          <Chart lines={lines} height={130} bars from={now / 1000 - range} to={now / 1000} />
        </Panel>
      )}
      <Empty when={!error && logs.data?.items.length === 0}>No record in this range matches.</Empty>
      {!error && logs.data && logs.data.items.length > 0 && (
        <Panel
          title="Records"
          aside={<span className="dim">{logs.data.truncated ? `the newest ${logs.data.items.length}` : `${logs.data.items.length}`}, newest first</span>}
        >
          <ol className="log">
            {logs.data.items.map((row, i) => (
              <li key={i} className={row.severity.toLowerCase()}>
                <button type="button" aria-expanded={open === i} onClick={() => setOpen(open === i ? undefined : i)}>
                  <time dateTime={row.time}>{clock(row.time)}</time>
                  <b>{row.severity.toUpperCase()}</b>
                  <span className="dim">{row.service}</span>
                  <span>{typeof row.body === "string" ? row.body : JSON.stringify(row.body)}</span>
                </button>
                {open === i && (
                  <div className="inset">
                    {row.traceId && (
                      <p>
                        <Link href={`/traces/${row.traceId}`}>Its trace</Link>
                      </p>
                    )}
                    <Attributes of={row.attributes} title="Attributes" />
                    <Attributes of={row.resource} title="Resource" />
                  </div>
                )}
              </li>
            ))}
          </ol>
        </Panel>
      )}
    </>
  );
}
