// Runs, and one run with the graph of its steps, their inputs and outputs.
import { useMemo, useState } from "react";
import { Link } from "wouter";
import { type Items, type Run, type Step, type Wait, post, useLoad } from "../api";
import { Ago, Badge, Empty, Failed, Json, Panel, Scroll, clock, lasted, useNow } from "../parts";

const FILTERS = [
  ["all", ""],
  ["asks you", "&asks=true"],
  ["running", "&status=running"],
  ["completed", "&status=completed"],
  ["faulted", "&status=faulted"],
] as const;

export function Runs() {
  const [filter, setFilter] = useState<(typeof FILTERS)[number]>(FILTERS[0]);
  const { data, error } = useLoad<Items<Run>>(`/api/v1/runs?limit=200${filter[1]}`, 5_000);
  return (
    <>
      <h1>Runs</h1>
      <div className="tabs" role="group" aria-label="Which runs">
        {FILTERS.map((f) => (
          <button key={f[0]} type="button" aria-pressed={f === filter} onClick={() => setFilter(f)}>
            {f[0]}
          </button>
        ))}
      </div>
      <Failed error={error} />
      <Empty when={data?.items.length === 0}>{filter === FILTERS[0] ? "No workflow has run yet." : "No run is like this."}</Empty>
      {data && data.items.length > 0 && (
        <Scroll>
          <table>
            <thead>
              <tr>
                <th>Status</th>
                <th>Workflow</th>
                <th>Started</th>
                <th>Lasted</th>
                <th>Waits for</th>
              </tr>
            </thead>
            <tbody>
              {data.items.map((run) => (
                <tr key={run.id}>
                  <td>
                    <Badge of={run.asks ? "asks" : run.status} />
                  </td>
                  <td>
                    <Link href={`/runs/${run.id}`}>{run.name}</Link> <span className="dim">{run.version}</span>
                  </td>
                  <td className="narrow">
                    <Ago at={run.started} />
                  </td>
                  <td>{lasted(run.started, run.ended)}</td>
                  <td className="dim">{run.ended ? "" : run.waits.map(waiting).join("; ")}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
    </>
  );
}

/** What a run waits for, in words. */
export function waiting(wait: Wait): string {
  const at = wait.until ? ` until ${clock(wait.until).slice(0, 8)}` : "";
  switch (wait.for) {
    case "action":
      return `${wait.installation}/${wait.operation} is being done`;
    case "timer":
      return `${nameOf(wait.step)}: waits${at}`;
    case "retry":
      return `tries again${at}`;
    case "approval":
      return `${nameOf(wait.step)}: a person must approve`;
    case "decision":
      return `${wait.installation}/${wait.operation}: nobody knows whether it happened; a person must decide`;
    case "run":
      return "another run";
    case "resume":
      return "paused";
    default:
      return "an event";
  }
}

const nameOf = (step: string | undefined) => (step ?? "").split("/").pop()?.split("#")[0] ?? "";

type Node = Step & { children: Node[] };

function tree(steps: Step[]): Node[] {
  const nodes = new Map(steps.map((step) => [step.path, { ...step, children: [] as Node[] }]));
  const roots: Node[] = [];
  for (const node of nodes.values()) {
    const parent = node.parent === null ? undefined : nodes.get(node.parent);
    (parent ? parent.children : roots).push(node);
  }
  return roots;
}

export function RunPage({ id }: { id: string }) {
  const { data, error, reload } = useLoad<{ run: Run; steps: Step[]; isTruncated: boolean }>(`/api/v1/runs/${id}`, 2_000);
  const [chosen, setChosen] = useState<string>();
  const [problem, setProblem] = useState<Error>();
  useNow();
  const roots = useMemo(() => tree(data?.steps ?? []), [data]);
  if (!data) return <Failed error={error} />;
  const { run, steps } = data;
  const step = steps.find((s) => s.path === chosen);
  const act = (what: string, body?: unknown) => {
    setProblem(undefined);
    post(`/api/v1/runs/${id}/${what}`, body).then(reload, setProblem);
  };
  const isPaused = run.waits.some((w) => w.for === "resume");
  return (
    <>
      <p className="crumbs">
        <Link href="/runs">Runs</Link> /
      </p>
      <h1>
        {run.name} <Badge of={run.asks ? "asks" : run.status} />
      </h1>
      <p className="facts">
        <span>version {run.version}</span>
        <span>
          started <Ago at={run.started} />
        </span>
        <span>{run.ended === null ? `for ${lasted(run.started, null)}` : `took ${lasted(run.started, run.ended)}`}</span>
        {run.alert && <Link href={`/alerts/${run.alert}`}>the alert it answers</Link>}
        {run.parent && <Link href={`/runs/${run.parent}`}>the run it is part of</Link>}
        {run.ended === null && (
          <span className="acts">
            <button type="button" onClick={() => act(isPaused ? "resume" : "pause")}>
              {isPaused ? "Resume" : "Pause"}
            </button>
            <button type="button" className="danger" onClick={() => act("cancel", { reason: "from the page" })}>
              Cancel
            </button>
          </span>
        )}
      </p>
      <Failed error={problem} />
      {run.ended === null && run.waits.map((wait) => <Ask key={`${wait.step}${wait.for}`} wait={wait} onAct={act} />)}
      <div className="columns wide-left">
        <Panel title="Steps" aside={<span className="dim">{steps.length}</span>}>
          <Empty when={steps.length === 0}>No step has begun.</Empty>
          <Graph nodes={roots} chosen={chosen} onChoose={(path) => setChosen(path === chosen ? undefined : path)} />
          {data.isTruncated && <p className="dim">The run has more steps than are shown.</p>}
        </Panel>
        <Panel title={step ? step.name : "The run as a whole"} aside={step && <Badge of={step.status} />}>
          {step ? (
            <>
              <p className="facts">
                <span>{step.kind}</span> <span>{lasted(step.started, step.ended)}</span>
                {step.attempts > 1 && <span>{step.attempts} attempts</span>}
                <code>{step.path}</code>
              </p>
              <Json of={step.error} title="Error" />
              <Json of={step.request} title="Asked of the plugin" />
              <Json of={step.input} title="Input" />
              <Json of={step.output} title="Output" />
            </>
          ) : (
            <>
              <p className="dim small">Choose a step to see what went in and what came out.</p>
              <Json of={run.error} title="Error" />
              <Json of={run.output} title="Output" />
              <Json of={run.input} title="Input" />
            </>
          )}
        </Panel>
      </div>
    </>
  );
}

/** What the run asks of a person, with the answers; or what it waits for. */
function Ask({ wait, onAct }: { wait: Wait; onAct: (what: string, body: unknown) => void }) {
  const [comment, setComment] = useState("");
  if (wait.for === "approval") {
    const answer = (approved: boolean) => onAct("answer", { step: wait.step, approved, comment });
    return (
      <div className="ask">
        <p>
          <b>{nameOf(wait.step)}</b> waits for your answer, since <Ago at={wait.since} />.
        </p>
        <Note of={wait.note} />
        <p className="acts">
          <input aria-label="Comment" placeholder="Why (optional)" maxLength={500} value={comment} onChange={(e) => setComment(e.target.value)} />
          <button type="button" className="main" onClick={() => answer(true)}>
            Approve
          </button>
          <button type="button" className="danger" onClick={() => answer(false)}>
            Reject
          </button>
        </p>
      </div>
    );
  }
  if (wait.for === "decision") {
    const decide = (decision: string) => onAct("retry", { step: wait.step, decision });
    return (
      <div className="ask">
        <p>
          <b>
            {wait.installation}/{wait.operation}
          </b>{" "}
          was asked for, and nobody knows whether it happened. Look at the target, then decide.
        </p>
        <Json of={wait.error} />
        <p className="acts">
          <button type="button" className="main" onClick={() => decide("retry")}>
            It has not: do it again
          </button>
          <button type="button" onClick={() => decide("skip")}>
            It has: go on
          </button>
          <button type="button" className="danger" onClick={() => decide("fail")}>
            Fail the step
          </button>
        </p>
      </div>
    );
  }
  return <p className="waits">{wait.for === "resume" ? "It is paused." : waiting(wait)}</p>;
}

/** The task's metadata: its `question` as text, the rest as it is. */
function Note({ of }: { of: unknown }) {
  if (typeof of !== "object" || of === null) return <Json of={of} />;
  const { question, ...rest } = of as { question?: unknown };
  return (
    <>
      {typeof question === "string" && <p className="question">{question}</p>}
      {Object.keys(rest).length > 0 && <Json of={rest} />}
    </>
  );
}

function Graph({ nodes, chosen, onChoose }: { nodes: Node[]; chosen: string | undefined; onChoose: (path: string) => void }) {
  return (
    <ol className="graph">
      {nodes.map((node) => (
        <li key={node.path} className={node.status}>
          <button type="button" aria-pressed={node.path === chosen} onClick={() => onChoose(node.path)}>
            <i aria-hidden="true" />
            <span>
              <b>{node.name}</b> <span className="dim">{does(node)}</span>
            </span>
            <span className="dim">
              {node.status === "completed" ? lasted(node.started, node.ended) : node.status}
              {node.attempts > 1 && ` ×${node.attempts}`}
            </span>
          </button>
          {node.children.length > 0 && <Graph nodes={node.children} chosen={chosen} onChoose={onChoose} />}
        </li>
      ))}
    </ol>
  );
}

/** `slack/post` says more than `call`. */
function does(step: Step): string {
  const request = step.request as { installation?: string; operation?: string } | null;
  return request?.installation ? `${request.installation}/${request.operation}` : step.kind;
}
