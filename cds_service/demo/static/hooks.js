// The EHR's side of CDS Hooks 2.0: discovery, prefetch, the call, feedback. Speaks the public protocol only.

const FHIR = `${location.origin}/demo/fhir`;
const CDS = `${location.origin}/cds-services`;
const USER = "Practitioner/demo-clinician";

export class Client {
  constructor(onCall) {
    this.onCall = onCall;
    this.services = [];
    this.held = new Map(); // prefetch query -> resource, for as long as the page is open
  }

  async discover() {
    const answer = await this.send("GET", CDS);
    this.services = answer.ok ? answer.body.services ?? [] : [];
    return this.services;
  }

  listening(hook) {
    return this.services.filter((service) => service.hook === hook);
  }

  async fire(service, context, withPrefetch) {
    const request = {
      hook: service.hook,
      hookInstance: crypto.randomUUID(),
      fhirServer: FHIR,
      context: { userId: USER, ...context },
    };
    if (withPrefetch) request.prefetch = await this.prefetch(service.prefetch ?? {}, request.context);
    return this.send("POST", `${CDS}/${encodeURIComponent(service.id)}`, request);
  }

  async feedback(serviceId, items) {
    return this.send("POST", `${CDS}/${encodeURIComponent(serviceId)}/feedback`, { feedback: items });
  }

  async prefetch(templates, context) {
    const pairs = await Promise.all(
      Object.entries(templates).map(async ([key, template]) => [key, await this.read(fill(template, context))]),
    );
    return Object.fromEntries(pairs.filter(([, value]) => value !== undefined)); // left out: not sent, ask yourself
  }

  async read(query) {
    if (query === undefined) return undefined;
    if (!this.held.has(query)) {
      const answer = await fetch(`${FHIR}/${encodeURI(query).replaceAll("|", "%7C")}`);
      if (!answer.ok) return undefined;
      this.held.set(query, await answer.json());
    }
    return this.held.get(query);
  }

  async send(method, url, body) {
    const started = performance.now();
    const call = { method, url, request: body };
    try {
      const answer = await fetch(url, {
        method,
        headers: body ? { "Content-Type": "application/json", Accept: "application/json" } : { Accept: "application/json" },
        body: body ? JSON.stringify(body) : undefined,
      });
      call.status = answer.status;
      call.ok = answer.ok;
      const text = await answer.text();
      call.body = text ? JSON.parse(text) : null;
    } catch (error) {
      Object.assign(call, { ok: false, status: 0, body: null, failure: String(error) });
    }
    call.ms = Math.round(performance.now() - started);
    this.onCall(call);
    return call;
  }
}

// A template with a token that has no value here cannot be sent (CDS Hooks 2.0, "Prefetch tokens").
function fill(template, context) {
  let missing = false;
  const filled = template.replace(/\{\{\s*(.*?)\s*\}\}/g, (_, token) => {
    const today = /^today\(\)(?:\s*([+-])\s*(\d+)\s+days?)?$/.exec(token);
    if (today) {
      const days = Number(today[2] ?? 0) * (today[1] === "-" ? -1 : 1);
      return new Date(Date.now() + days * 86400000).toISOString().slice(0, 10);
    }
    if (token === "userPractitionerId") return USER.split("/")[1];
    const value = token.startsWith("context.") ? context[token.slice(8)] : undefined;
    if (typeof value !== "string") missing = true;
    return value ?? "";
  });
  return missing ? undefined : filled;
}

export function problemOf(call) {
  if (call.failure) return "could not be reached";
  return call.body?.issue?.[0]?.diagnostics ?? `answered ${call.status}`;
}
