// Uses the page as a person would, and fails at the first thing that is wrong.
//
// node drive.mjs URL TOKEN FOLDER: FOLDER holds node_modules with playwright-core, and gets a picture of a failure.
import { createRequire } from "node:module";
import { join } from "node:path";

const [url, token, folder] = process.argv.slice(2);
const { chromium } = createRequire(join(folder, "package.json"))("playwright-core");

const FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync";
const PATIENCE_MS = 60_000;

const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", headless: true, args: FLAGS.split(" ") });
const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
page.setDefaultTimeout(PATIENCE_MS);

const wrong = [];
page.on("pageerror", (error) => wrong.push(`uncaught: ${error.message}`));
page.on("console", (message) => message.type() === "error" && wrong.push(`console: ${message.text()} (${message.location().url})`));
page.on("response", (response) => response.status() >= 400 && wrong.push(`${response.status()} for ${response.url()}`));
await page.exposeFunction("tellViolation", (what) => wrong.push(`refused by the content security policy: ${what}`));
await page.addInitScript(() => {
  addEventListener("securitypolicyviolation", (e) => window.tellViolation(`${e.violatedDirective} ${e.blockedURI}`));
});

let doing = "start";
const step = async (what, act) => {
  doing = what;
  const began = Date.now();
  await act();
  if (wrong.length > 0) throw new Error(wrong.join("\n"));
  console.log(`ok ${what} (${Date.now() - began} ms)`);
};
const expect = (holds, why) => {
  if (!holds) throw new Error(why);
};
const text = (what) => page.getByText(what, { exact: false }).first();
const heading = (name) => page.getByRole("heading", { level: 1, name });
const goTo = (name) => page.getByRole("navigation").getByRole("link", { name, exact: true }).click();
/** Until `look` holds, asked again as a person would look again. */
const until = async (why, look) => {
  for (const end = Date.now() + PATIENCE_MS; !(await look()); await page.waitForTimeout(100)) {
    expect(Date.now() < end, why);
  }
};

try {
  await step("a wrong token is told", async () => {
    await page.goto(url);
    await page.getByLabel("API token").fill("wrong");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("alert").getByText("not valid").waitFor();
    expect(wrong.every((w) => w.includes("401")), wrong.join("\n"));
    expect(wrong.length > 0, "the wrong token was not refused by the host");
    wrong.length = 0;
  });

  await step("sign in and see the overview, live", async () => {
    await page.getByLabel("API token").fill(token);
    await page.keyboard.press("Enter");
    await heading("Overview").waitFor();
    await page.locator(".live.on").waitFor();
    await page.getByRole("heading", { name: "Wrong now" }).waitFor();
  });

  await step("the token stays in the tab: no cookie, nothing in the address or the local storage", async () => {
    expect((await page.context().cookies()).length === 0, "a cookie was set");
    expect(!page.url().includes(token), "the token is in the address");
    expect((await page.evaluate(() => localStorage.length)) === 0, "something is in the local storage");
  });

  await step("the alert comes to the overview by itself", async () => {
    await page.locator(".rows, .events").getByText("cpu-high").first().waitFor();
    await page.locator(".events").getByText("io.orchestrix.alert.firing").first().waitFor();
  });

  await step("the alert has its labels, its timeline and its run", async () => {
    await goTo("Alerts");
    await page.getByRole("button", { name: "firing", exact: true }).waitFor();
    const link = page.locator("table").getByRole("link", { name: "cpu-high" });
    // It may be solved already.
    if ((await link.count()) === 0 && !(await link.first().waitFor({ timeout: 2_000 }).then(() => true, () => false))) {
      await page.getByRole("button", { name: "resolved", exact: true }).click();
    }
    await link.first().click();
    await heading("cpu-high").waitFor();
    await text("service=cart").waitFor();
    await page.locator(".timeline .badge.firing").waitFor();
    await page.getByRole("heading", { name: "Evidence" }).waitFor();
    await page.getByRole("link", { name: "scale-on-high-cpu" }).first().click();
    await heading("scale-on-high-cpu").waitFor();
  });

  await step("the run ends well, seen without reloading", async () => {
    await page.locator("h1 .badge.completed").waitFor();
  });

  await step("its steps show what was asked, what went in and what came out", async () => {
    for (const name of ["remember", "tellTeam", "look", "scale", "settle", "measure", "tellSolved"]) {
      await page.locator(".graph").getByRole("button", { name }).first().waitFor();
    }
    await page.locator(".graph").getByRole("button", { name: "scale kubernetes/scale" }).click();
    const json = page.locator(".json");
    await json.filter({ hasText: "Asked of the plugin" }).filter({ hasText: '"replicas": 4' }).waitFor();
    await json.filter({ hasText: /^Input/ }).waitFor();
    await json.filter({ hasText: /^Output/ }).filter({ hasText: '"after": 4' }).waitFor();
  });

  await step("an approval is asked for, and given", async () => {
    await goTo("Runs");
    await page.getByRole("button", { name: "asks you" }).click();
    await page.locator("table").getByRole("link", { name: "ask-first" }).click();
    await page.locator(".ask").getByText("Restart the shop?").waitFor();
    await page.getByLabel("Comment").fill("go on");
    await page.getByRole("button", { name: "Approve" }).click();
    await page.locator("h1 .badge.completed").waitFor();
    await page.locator(".json").filter({ hasText: /^Output/ }).filter({ hasText: '"approved": true' }).waitFor();
  });

  await step("the ledger is verified and names the scaling", async () => {
    await goTo("Ledger");
    await page.locator("h1 .badge.verified").waitFor();
    await page.locator("table").getByText("kubernetes.deployment.scale").first().waitFor();
  });

  await step("a plugin shows what it asked for, what it may, and its recorded calls", async () => {
    await goTo("Plugins");
    await page.locator(".panel", { hasText: "orchestrix/kubernetes" }).getByText("GET, PATCH").first().waitFor();
    await page.getByRole("link", { name: "kubernetes", exact: true }).click();
    await heading("kubernetes").waitFor();
    await text("Granted: it may").waitFor();
    await text("Asked for in its manifest").waitFor();
    await page.locator("table").getByText("scale", { exact: false }).first().waitFor();
    await page.locator(".row", { hasText: "scale" }).first().click();
    await page.locator("summary").filter({ hasText: "http" }).first().waitFor();
    const recorded = await page.locator(".inset").innerText();
    expect(!recorded.includes("playground-service-account"), "a secret is shown in a recorded call");
  });

  await step("a metrics query draws a chart with its legend", async () => {
    await goTo("Metrics");
    await page.getByLabel("PromQL").fill('cpu_usage{service="cart"}');
    await page.getByRole("button", { name: "Run" }).click();
    await page.locator(".chart canvas").waitFor();
    await page.locator(".u-legend").getByText('service="cart"').waitFor();
    const painted = await page.locator(".chart canvas").evaluate((canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return data.some((byte) => byte !== 0);
    });
    expect(painted, "the chart is empty");
  });

  await step("logs are found by words, counted, and opened", async () => {
    await goTo("Logs");
    await page.locator(".log li").first().waitFor();
    await page.locator(".chart canvas").waitFor();
    // The oldest: senders hand over spans in batches, after the logs.
    await page.locator(".log button").last().click();
    await page.locator(".log .attributes").first().waitFor();
    await page.locator(".log").getByRole("link", { name: "Its trace" }).click();
    await page.locator(".waterfall li").first().waitFor();
    await page.getByRole("link", { name: "its logs" }).click();
    await text("only of").waitFor();
    await page.locator(".log li").first().waitFor();
    await goTo("Logs");
    await page.getByLabel("Log query").fill('{service_name="no-such-service"}');
    await page.getByRole("button", { name: "Search" }).click();
    await text("No record in this range matches.").waitFor();
  });

  await step("spans are listed, and one opens its trace", async () => {
    await goTo("Traces");
    await page.locator("tbody a").first().click();
    await page.locator(".waterfall li").first().waitFor();
  });

  await step("a wrong query is told beside it", async () => {
    await goTo("Metrics");
    await page.getByLabel("PromQL").fill("sum(");
    await page.getByRole("button", { name: "Run" }).click();
    await page.locator(".failed[role=alert]").waitFor();
    await until("the host did not refuse the query", async () => wrong.length > 0);
    expect(wrong.every((w) => w.includes("400")), wrong.join("\n"));
    wrong.length = 0;
  });

  await step("on a phone no page is wider than the screen", async () => {
    await page.setViewportSize({ width: 390, height: 844 });
    for (const name of ["Overview", "Alerts", "Runs", "Ledger", "Plugins", "Metrics", "Logs", "Traces"]) {
      await goTo(name);
      await page.waitForTimeout(300);
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      expect(over <= 0, `${name} is ${over} pixels too wide`);
    }
  });

  await step("signing out forgets the token", async () => {
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByLabel("API token").waitFor();
    expect((await page.evaluate(() => sessionStorage.length)) === 0, "the token was kept");
  });
} catch (error) {
  const picture = join(folder, "failure.png");
  await page.screenshot({ path: picture }).catch(() => {});
  console.error(`failed at: ${doing}\n${error.message}\n${wrong.join("\n")}\naddress ${page.url()}, picture ${picture}`);
  process.exitCode = 1;
} finally {
  await browser.close();
}
