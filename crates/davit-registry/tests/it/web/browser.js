// Walks through the pages of a registry: node browser.js URL FOLDER CHROMIUM
"use strict";

const assert = require("node:assert");
const path = require("node:path");
const { chromium } = require("playwright-core");

const [url, folder, executablePath] = process.argv.slice(2);
const PASSWORD = "correct horse";

/** Contrast of each text that is seen, by WCAG 2.2 § 1.4.3. */
function contrasts() {
  const parse = (colour) => {
    const parts = colour.match(/[\d.]+/g).map(Number);
    return [parts[0], parts[1], parts[2], parts[3] ?? 1];
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const wrong = [];
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    const box = element.getBoundingClientRect();
    if (!text || box.width < 2 || box.height < 2 || element.closest("svg, .unseen, .skip")) continue;
    const style = getComputedStyle(element);
    const [one, other] = [luminance(parse(style.color)), luminance(ground(element))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) wrong.push(`${ratio.toFixed(2)} ${element.tagName}.${element.className} ${element.textContent.trim().slice(0, 30)}`);
  }
  return wrong;
}

/** What a reader with other senses would miss. */
function unnamed() {
  const wrong = [];
  for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
    if (!field.labels?.length && !field.getAttribute("aria-label")) wrong.push(field.outerHTML);
  }
  for (const thing of document.querySelectorAll("button, a, summary")) {
    if (!thing.textContent.trim() && !thing.getAttribute("aria-label")) wrong.push(thing.outerHTML);
  }
  if (document.querySelectorAll("h1").length !== 1) wrong.push("headings of the first level: " + document.querySelectorAll("h1").length);
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  if (new Set(ids).size !== ids.length) wrong.push("an id is there twice");
  return wrong;
}

async function main() {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
  const faults = [];
  const open = async (options) => {
    const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, ...options });
    // A busy machine takes its time; this ends what hangs alone.
    context.setDefaultTimeout(120_000);
    const page = await context.newPage();
    page.on("console", (message) => { if (message.type() === "error" && !/status of 40[0134]/.test(message.text())) faults.push(`${page.url()}: ${message.text()}`); });
    page.on("pageerror", (error) => faults.push(`${page.url()}: ${error}`));
    return page;
  };
  const picture = async (page, name) => {
    await page.screenshot({ path: path.join(folder, `${name}.png`), fullPage: true });
    for (const wrong of await page.evaluate(contrasts)) faults.push(`${name}: contrast ${wrong}`);
    for (const wrong of await page.evaluate(unnamed)) faults.push(`${name}: ${wrong}`);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (wide > 1) faults.push(`${name}: the page is ${wide} px wider than the window`);
  };

  // A newcomer signs up, by keyboard alone.
  const page = await open({ colorScheme: "light" });
  await page.goto(url);
  await picture(page, "01-guest");
  await page.keyboard.press("Tab");
  assert.strictEqual(await page.evaluate(() => document.activeElement.className), "skip");
  await page.goto(`${url}/signup`);
  await picture(page, "02-signup");
  await page.keyboard.type("nina");
  await page.keyboard.press("Tab");
  await page.keyboard.type(PASSWORD);
  await page.keyboard.press("Enter");
  await page.waitForURL(`${url}/`);
  await page.keyboard.press("/");
  await page.keyboard.type("toolbox");
  await page.keyboard.press("Enter");
  await page.waitForURL(/q=toolbox/);
  assert.ok(await page.getByRole("link", { name: "boss/toolbox" }).isVisible());
  await page.goto(`${url}/new/repository`);
  await picture(page, "03-new-repository");
  await page.getByLabel("Name").fill("nina/first");
  await page.getByRole("button", { name: "Make repository" }).click();
  await page.waitForURL(`${url}/r/nina/first`);
  await picture(page, "04-empty-repository");
  assert.ok(await page.getByText("The repository was made.").isVisible());
  // What is another's does not exist for her.
  const hidden = await page.goto(`${url}/r/lighthouse/web`);
  assert.strictEqual(hidden.status(), 404);
  await picture(page, "05-absent");

  // The one who runs the server sees all of it, light and dark, wide and narrow.
  const pages = [
    ["home", "/"], ["account", "/a/lighthouse"], ["members", "/a/lighthouse/members"],
    ["access", "/a/lighthouse/access"], ["usage", "/a/lighthouse/usage"],
    ["account-audit", "/a/lighthouse/audit"], ["repository", "/r/lighthouse/api"],
    ["tags", "/r/lighthouse/api/-/tags"], ["tag", "/r/lighthouse/api/-/tags/latest"],
    ["repository-access", "/r/lighthouse/api/-/access"], ["repository-settings", "/r/lighthouse/api/-/settings"],
    ["settings", "/settings"], ["tokens", "/settings/tokens"], ["new-organisation", "/new/organisation"],
    ["builds", "/r/lighthouse/api/-/builds"], ["build", "/r/lighthouse/api/-/builds/1"],
    ["source", "/r/lighthouse/api/-/source"], ["repository-webhooks", "/r/lighthouse/api/-/webhooks"],
    ["webhooks", "/a/lighthouse/webhooks"], ["webhook", "/a/lighthouse/webhooks/ci"],
    ["admin-builds", "/admin/builds"], ["identity", "/admin/identity"], ["server-webhooks", "/admin/webhooks"], ["server-webhook", "/admin/webhooks/audit"], ["mirrors", "/admin/mirrors"], ["replication", "/admin/replication"],
    ["no-source", "/r/boss/toolbox/-/source"],
    ["admin", "/admin"], ["users", "/admin/users"], ["audit", "/admin/audit"],
    ["admin-settings", "/admin/settings"], ["api", "/about/api"],
  ];
  for (const [scheme, width] of [["light", 1280], ["dark", 1280], ["light", 390]]) {
    const boss = await open({ colorScheme: scheme, viewport: { width, height: 860 } });
    await boss.goto(`${url}/login`);
    await picture(boss, `${scheme}-${width}-login`);
    await boss.getByLabel("Name").fill("boss");
    await boss.getByLabel("Password").fill(PASSWORD);
    await boss.getByRole("button", { name: "Log in" }).click();
    await boss.waitForURL(`${url}/`);
    for (const [name, place] of pages) {
      const reply = await boss.goto(url + place);
      assert.strictEqual(reply.status(), 200, place);
      await picture(boss, `${scheme}-${width}-${name}`);
    }
    await boss.goto(`${url}/r/lighthouse/api/-/tags/1.5.0`);
    await boss.locator("dd a.digest").click();
    await boss.waitForURL(/images/);
    await picture(boss, `${scheme}-${width}-image`);
    await boss.locator("details.menu summary").last().click();
    await picture(boss, `${scheme}-${width}-menu`);
    await boss.keyboard.press("Escape");
    assert.strictEqual(await boss.locator("details.menu[open]").count(), 0);
    await boss.context().close();
  }

  // A live part shows a new tag without a click.
  const watcher = await open({});
  await watcher.goto(`${url}/r/boss/toolbox`);
  await watcher.evaluate(() => new Promise((done) => { const wait = () => (document.querySelector("#live") ? done() : setTimeout(wait, 50)); wait(); }));
  const auth = "Basic " + Buffer.from(`boss:${PASSWORD}`).toString("base64");
  const kind = "application/vnd.oci.image.manifest.v1+json";
  const manifest = await fetch(`${url}/v2/boss/toolbox/manifests/latest`, { headers: { authorization: auth, accept: kind } });
  const put = await fetch(`${url}/v2/boss/toolbox/manifests/fresh-paint`, { method: "PUT", headers: { authorization: auth, "content-type": kind }, body: await manifest.text() });
  assert.strictEqual(put.status, 201);
  await watcher.getByRole("link", { name: "fresh-paint" }).waitFor({ timeout: 30000 });

  // A build is asked for and ended by keyboard and buttons, and its page says so by itself.
  const builder = watcher;
  await builder.goto(`${url}/login`);
  await builder.getByLabel("Name").fill("boss");
  await builder.getByLabel("Password").fill(PASSWORD);
  await builder.keyboard.press("Enter");
  await builder.waitForURL(`${url}/`);
  await builder.goto(`${url}/r/lighthouse/api/-/builds`);
  await builder.getByRole("button", { name: "Build now" }).click();
  await builder.waitForURL(/builds\/\d+$/);
  const place = builder.url();
  await builder.getByText("waiting", { exact: true }).waitFor();
  const other = await builder.context().newPage();
  await other.goto(place);
  await other.getByRole("button", { name: "End this build" }).click();
  await other.getByText("cancelled by boss").waitFor();
  await builder.getByText("cancelled by boss").waitFor({ timeout: 30000 });
  assert.strictEqual(builder.url(), place);

  // A refused form is where it was sent from, at the field that is wrong.
  await builder.goto(`${url}/settings/tokens`);
  await builder.getByLabel("Name", { exact: true }).fill("x");
  await builder.getByLabel("Limited to").fill("everything");
  await builder.getByRole("button", { name: "Make token" }).click();
  await builder.locator("form .fault").waitFor();
  await picture(builder, "07-refused-form");
  assert.strictEqual(builder.url(), `${url}/settings/tokens`);
  const isThere = () => document.activeElement.matches("[name=scopes][aria-invalid]");
  assert.ok(await builder.evaluate(isThere));

  // Without JavaScript the same things are there.
  const bare = await open({ javaScriptEnabled: false });
  await bare.goto(`${url}/login`);
  await bare.getByLabel("Name").fill("ada");
  await bare.getByLabel("Password").fill(PASSWORD);
  await bare.getByRole("button", { name: "Log in" }).click();
  await bare.waitForURL(`${url}/`);
  await bare.locator("summary", { hasText: "ada" }).click();
  await bare.getByRole("link", { name: "Access tokens" }).click();
  // A refusal stands in the form, which keeps what was typed.
  await bare.getByLabel("Name", { exact: true }).fill("phone");
  await bare.getByLabel("Limited to").fill("everything");
  await bare.getByRole("button", { name: "Make token" }).click();
  assert.match(await bare.locator("form .fault[role=alert]").textContent(), /repository:NAME:ACTIONS/i);
  assert.strictEqual(await bare.getByLabel("Name", { exact: true }).inputValue(), "phone");
  assert.strictEqual(await bare.getByLabel("Limited to").inputValue(), "everything");
  await bare.getByLabel("Limited to").fill("");
  await bare.getByRole("button", { name: "Make token" }).click();
  assert.match(await bare.locator(".secret code").textContent(), /^davit_pat_/);
  await bare.screenshot({ path: path.join(folder, "06-secret-without-javascript.png"), fullPage: true });
  await bare.getByRole("link", { name: "I have it" }).click();
  assert.match((await bare.goto(`${url}/r/lighthouse/api/-/builds/1`), await bare.locator("#log").textContent()), /Step 3 of 4/);
  await bare.goto(url);
  await bare.locator("summary", { hasText: "ada" }).click();
  await bare.getByRole("button", { name: "Log out" }).click();
  await bare.waitForURL(`${url}/`);

  await browser.close();
  assert.deepStrictEqual(faults, []);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
