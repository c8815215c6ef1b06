// Small parts that several pages share.
import type { ReactNode } from "react";

/** `3 min ago`, with the exact time on hover. */
export function Ago({ at }: { at: string | null | undefined }) {
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

export const Badge = ({ of }: { of: string }) => <span className={`badge ${of}`}>{of}</span>;

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
