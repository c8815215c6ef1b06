// Small parts that several pages share.
import { type ReactNode, useEffect, useState } from "react";

/** `3 min ago`, with the exact time on hover. */
export function Ago({ at }: { at: string | null | undefined }) {
  useNow(5_000);
  if (!at) return <span className="dim">–</span>;
  const date = new Date(at);
  return (
    <time dateTime={at} title={date.toLocaleString()}>
      {ago(Date.now() - date.getTime())}
    </time>
  );
}

export function ago(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 5) return "now";
  if (seconds < 90) return `${seconds} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129_600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86_400)} d ago`;
}

export function lasted(from: string, to: string | null): string {
  const ms = (to ? new Date(to).getTime() : Date.now()) - new Date(from).getTime();
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 90_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.round(ms / 60_000)} min`;
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23" });

/** `20:33:07.352` */
export const clock = (at: string) => CLOCK.format(new Date(at));

export function micros(us: number): string {
  if (us < 1_000) return `${Math.round(us)} µs`;
  if (us < 1_000_000) return `${(us / 1_000).toFixed(us < 10_000 ? 1 : 0)} ms`;
  return `${(us / 1_000_000).toFixed(1)} s`;
}

export function bytes(n: number): string {
  if (n < 1024) return `${n} B`;
  if (n < 1024 * 1024) return `${Math.round(n / 1024)} KiB`;
  return `${(n / 1024 / 1024).toFixed(1)} MiB`;
}

/** In words: what is asked of a person stands out, whatever the machine calls it. */
const SAID: Record<string, string> = { asks: "asks you", "in-doubt": "in doubt" };

/** `isPast`: true once, and no longer of concern. */
export const Badge = ({ of, isPast = false }: { of: string; isPast?: boolean }) => (
  <span className={`badge ${isPast ? "past" : of.replaceAll(" ", "-")}`}>{SAID[of] ?? of}</span>
);

export const RANGES = [
  ["15 min", 900],
  ["1 h", 3_600],
  ["6 h", 21_600],
  ["1 d", 86_400],
  ["7 d", 604_800],
] as const;

export function RangeChoice({ value, onChange }: { value: number; onChange: (seconds: number) => void }) {
  return (
    <select aria-label="Range" value={value} onChange={(e) => onChange(Number(e.target.value))}>
      {RANGES.map(([label, seconds]) => (
        <option key={seconds} value={seconds}>
          last {label}
        </option>
      ))}
    </select>
  );
}

/** Names and values, one a line. */
export function Attributes({ of, title }: { of: unknown; title: string }) {
  const rows = typeof of === "object" && of !== null ? Object.entries(of) : [];
  if (rows.length === 0) return null;
  return (
    <>
      <h3>{title}</h3>
      <dl className="attributes">
        {rows.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{typeof value === "string" ? value : JSON.stringify(value)}</dd>
          </div>
        ))}
      </dl>
    </>
  );
}

/** Wide tables scroll in their own box, never the page. */
export const Scroll = ({ children }: { children: ReactNode }) => <div className="scroll">{children}</div>;

/** A tick each second, so that what runs is seen to run. */
export function useNow(everyMs = 1_000): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return now;
}

export function Labels({ of }: { of: Record<string, string> }) {
  return (
    <span className="labels">
      {Object.entries(of)
        .filter(([name]) => name !== "alertname")
        .map(([name, value]) => (
          <code key={name}>
            {name}=<b>{value}</b>
          </code>
        ))}
    </span>
  );
}

export function Json({ of, title }: { of: unknown; title?: string }) {
  if (of === null || of === undefined) return null;
  return (
    <figure className="json">
      {title && <figcaption>{title}</figcaption>}
      <pre>{typeof of === "string" ? of : JSON.stringify(of, null, 2)}</pre>
    </figure>
  );
}

export function Failed({ error }: { error: Error | undefined }) {
  return error ? (
    <p className="failed" role="alert">
      {error.message}
    </p>
  ) : null;
}

export function Empty({ when, children }: { when: boolean; children: ReactNode }) {
  return when ? <p className="empty">{children}</p> : null;
}

export function Panel({ title, aside, children }: { title: ReactNode; aside?: ReactNode; children: ReactNode }) {
  return (
    <section className="panel">
      <header>
        <h2>{title}</h2>
        {aside}
      </header>
      {children}
    </section>
  );
}
