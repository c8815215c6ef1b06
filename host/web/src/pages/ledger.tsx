// The effect ledger: every change of the world, announced, refused or done, newest first.
import { Link } from "wouter";
import { type Items, type LedgerRow, useLoad } from "../api";
import { Ago, Badge, Empty, Failed } from "../parts";

type Verified = { rows: number; brokenAt: number | null };

export function Ledger() {
  const { data, error } = useLoad<Items<LedgerRow>>("/api/v1/ledger?limit=200", 5_000);
  const verified = useLoad<Verified>("/api/v1/ledger/verify");
  return (
    <>
      <h1>
        Effect ledger{" "}
        {verified.data && (
          <Badge of={verified.data.brokenAt === null ? "verified" : "broken"} />
        )}
      </h1>
      {verified.data?.brokenAt != null && <p className="failed">The chain is broken at row {verified.data.brokenAt}: a row was altered or taken out.</p>}
      <Failed error={error} />
      <Empty when={data?.items.length === 0}>No plugin has changed anything yet.</Empty>
      {data && data.items.length > 0 && (
        <table>
          <thead>
            <tr>
              <th>#</th>
              <th>When</th>
              <th>Entry</th>
              <th>Effect</th>
              <th>Target</th>
              <th>By</th>
            </tr>
          </thead>
          <tbody>
            {data.items.map((row) => (
              <tr key={row.id}>
                <td className="dim">{row.id}</td>
                <td>
                  <Ago at={row.at} />
                </td>
                <td>
                  <Badge of={row.entry === "settled" ? (row.body.status ?? row.entry) : row.entry} />
                </td>
                <td>
                  {row.body.effect?.kind ?? ""}
                  <div className="dim">{row.body.effect?.summary ?? row.body.reason ?? ""}</div>
                </td>
                <td>
                  <code>{row.body.effect?.target ?? ""}</code>
                </td>
                <td>
                  {row.body.caller?.installation}{" "}
                  {row.body.caller?.run && <Link href={`/runs/${row.body.caller.run}`}>run</Link>}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </>
  );
}
