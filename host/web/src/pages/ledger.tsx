// The effect ledger: every change of the world, announced, refused or done, newest first.
import { useState } from "react";
import { Link } from "wouter";
import { type Items, type LedgerRow, useLoad } from "../api";
import { Ago, Badge, Empty, Failed, Json, Scroll } from "../parts";

type Verified = { isIntact: boolean; rows: number; brokenAt: number | null };

export function Ledger() {
  const { data, error } = useLoad<Items<LedgerRow>>("/api/v1/ledger?limit=200", 5_000);
  const verified = useLoad<Verified>("/api/v1/ledger/verify", 30_000);
  const [open, setOpen] = useState<number>();
  const ended = new Set(data?.items.map((row) => row.begun));
  const rows = new Map(data?.items.map((row) => [row.id, row]));
  return (
    <>
      <h1>
        Effect ledger {verified.data && <Badge of={verified.data.isIntact ? "verified" : "broken"} />}
      </h1>
      <p className="dim">Every change a plugin made or wanted to make. Each row carries the hash of the one before it.</p>
      {verified.data && !verified.data.isIntact && (
        <p className="failed">The chain is broken at row {verified.data.brokenAt}: a row was altered or taken out.</p>
      )}
      <Failed error={error ?? verified.error} />
      <Empty when={data?.items.length === 0}>No plugin has changed anything yet.</Empty>
      {data && data.items.length > 0 && (
        <Scroll>
          <table>
            <thead>
              <tr>
                <th className="number">Row</th>
                <th>When</th>
                <th>Entry</th>
                <th>Effect</th>
                <th>Target</th>
                <th>By</th>
              </tr>
            </thead>
            <tbody>
              {data.items.map((row) => {
                // A settled row says how its begun row ended.
                const effect = row.body.effect ?? (row.begun === null ? undefined : rows.get(row.begun)?.body.effect);
                return (
                  <tr key={row.id}>
                    <td className="number dim">
                      <button type="button" className="quiet" aria-expanded={open === row.id} onClick={() => setOpen(open === row.id ? undefined : row.id)}>
                        {row.id}
                      </button>
                    </td>
                    <td className="narrow">
                      <Ago at={row.at} />
                    </td>
                    <td>
                      <Badge of={row.entry === "settled" ? (row.body.status ?? row.entry) : row.entry} isPast={row.entry === "begun" && ended.has(row.id)} />
                    </td>
                    <td>
                      {effect?.kind ?? (row.begun === null ? "" : `ends row ${row.begun}`)}
                      <div className="dim">{row.body.reason ?? effect?.summary}</div>
                      {open === row.id && <Json of={{ ...row.body, hash: row.hash }} />}
                    </td>
                    <td>
                      <code>{effect?.target}</code>
                    </td>
                    <td className="narrow">
                      {row.body.caller?.installation}
                      {row.body.caller?.run && (
                        <>
                          {" in "}
                          <Link href={`/runs/${row.body.caller.run}`}>this run</Link>
                        </>
                      )}
                    </td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </Scroll>
      )}
    </>
  );
}
