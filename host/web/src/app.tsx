// The frame: sign in, then a page by path.
import { type FormEvent, useEffect, useState } from "react";
import { Link, Route, Switch, useLocation } from "wouter";
import { Problem, call, token } from "./api";
import { AlertPage, Alerts } from "./pages/alerts";
import { Ledger } from "./pages/ledger";
import { Logs } from "./pages/logs";
import { Metrics } from "./pages/metrics";
import { Overview } from "./pages/overview";
import { PluginPage, Plugins } from "./pages/plugins";
import { RunPage, Runs } from "./pages/runs";
import { TracePage, Traces } from "./pages/traces";

type Me = { tenant: string; name: string; role: string };

const PAGES = [
  ["/", "Overview"],
  ["/alerts", "Alerts"],
  ["/runs", "Runs"],
  ["/ledger", "Ledger"],
  ["/plugins", "Plugins"],
  ["/metrics-explorer", "Metrics"],
  ["/logs", "Logs"],
  ["/traces", "Traces"],
] as const;

export function App() {
  const [me, setMe] = useState<Me>();
  const [asking, setAsking] = useState(token.get() !== null);
  const [why, setWhy] = useState("");
  const enter = () => {
    setAsking(true);
    call<Me>("/api/v1/me")
      .then(setMe, (problem: Error) => {
        token.clear();
        setWhy(problem instanceof Problem && problem.status === 401 ? "This token is not valid here." : problem.message);
      })
      .finally(() => setAsking(false));
  };
  useEffect(() => {
    if (token.get() !== null) enter();
    const out = () => setMe(undefined);
    window.addEventListener("orchestrix:signed-out", out);
    return () => window.removeEventListener("orchestrix:signed-out", out);
  }, []);
  if (asking && !me) return null;
  if (!me) return <SignIn why={why} onToken={(value) => (token.set(value), enter())} />;
  return <Frame me={me} onLeave={() => (token.clear(), setMe(undefined), setWhy(""))} />;
}

function SignIn({ why, onToken }: { why: string; onToken: (value: string) => void }) {
  const [value, setValue] = useState("");
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (value.trim()) onToken(value.trim());
  };
  return (
    <main className="sign-in">
      <form onSubmit={submit}>
        <img src="/icon.svg" alt="" width="56" />
        <h1>Orchestrix</h1>
        <label htmlFor="token">API token</label>
        <input id="token" type="password" autoComplete="current-password" autoFocus value={value} onChange={(e) => setValue(e.target.value)} />
        <button type="submit">Sign in</button>
        {why && (
          <p className="failed" role="alert">
            {why}
          </p>
        )}
        <p className="dim">
          The first start prints an admin token and keeps it in the data folder. More: <code>orchestrix token create</code>.
        </p>
      </form>
    </main>
  );
}

function Frame({ me, onLeave }: { me: Me; onLeave: () => void }) {
  const [place] = useLocation();
  return (
    <div className="frame">
      <nav aria-label="Pages">
        <Link href="/" className="brand">
          <img src="/icon.svg" alt="" width="28" /> Orchestrix
        </Link>
        {PAGES.map(([path, name]) => {
          const here = path === "/" ? place === "/" : place.startsWith(path);
          return (
            <Link key={path} href={path} className={here ? "here" : ""} aria-current={here ? "page" : undefined}>
              {name}
            </Link>
          );
        })}
        <footer>
          <span title={`role ${me.role}`}>
            {me.name} · {me.tenant}
          </span>
          <button type="button" className="quiet" onClick={onLeave}>
            Sign out
          </button>
        </footer>
      </nav>
      <main>
        <Switch>
          <Route path="/" component={Overview} />
          <Route path="/alerts" component={Alerts} />
          <Route path="/alerts/:id">{({ id }) => <AlertPage id={id} />}</Route>
          <Route path="/runs" component={Runs} />
          <Route path="/runs/:id">{({ id }) => <RunPage id={id} />}</Route>
          <Route path="/ledger" component={Ledger} />
          <Route path="/plugins" component={Plugins} />
          <Route path="/plugins/:name">{({ name }) => <PluginPage name={decodeURIComponent(name)} />}</Route>
          <Route path="/metrics-explorer" component={Metrics} />
          <Route path="/logs" component={Logs} />
          <Route path="/traces" component={Traces} />
          <Route path="/traces/:id">{({ id }) => <TracePage id={id} />}</Route>
          <Route>
            <h1>There is no page here</h1>
            <p>
              <Link href="/">Back to the overview</Link>
            </p>
          </Route>
        </Switch>
      </main>
    </div>
  );
}
