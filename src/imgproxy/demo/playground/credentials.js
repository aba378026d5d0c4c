// Content Credentials: what the original has, and what became of them in the result.

import { make } from "./dom.js";

const VALIDITY = { trusted: "valid and trusted", valid: "valid, of an unknown authority", invalid: "not valid" };

/** Describe the credentials of an original, as its JSON has them: a line that opens, with each generation. */
export function describeOriginal(found) {
  if (!found) return "none";
  const [newest] = found.generations;
  const words = [VALIDITY[found.validity] ?? found.validity, ...(newest ? [whoOf(newest)] : [])].join("; ");
  const problems = found.problems.length ? [make("p", {}, "Problems: ", make("code", {}, found.problems.join(", ")))] : [];
  const list = make("ol", {}, ...found.generations.map((each) => make("li", {}, inWords(each))));
  return make("details", { className: "credentials" }, make("summary", {}, words), ...problems, list);
}

/** Describe those of a result, as its headers have them. */
export function describeResult({ credentials, manifest }) {
  if (!credentials) return "none";
  if (credentials === "missing") return "missing: they could not be made, and will be tried again";
  if (!manifest) return credentials;
  return make("span", {}, `${credentials}: `, make("a", { href: manifest }, "its manifest"));
}

const whoOf = ({ signer, issuer }) => `signed by ${[...new Set([signer, issuer])].filter(Boolean).join(", ") || "somebody"}`;

function inWords(generation) {
  const done = (generation.actions ?? []).map((each) => each.action.replace("c2pa.", "") + (each.source_type ? ` (${each.source_type})` : ""));
  return [generation.title, whoOf(generation), generation.time, generation.program, done.join(", ")].filter(Boolean).join("; ");
}
