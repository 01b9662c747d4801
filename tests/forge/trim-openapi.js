// Cuts GitHub's OpenAPI description down to the parts the stub speaks, and mends what keeps Prism from checking it.
//
//   NODE_PATH=<node_modules> node trim-openapi.js > trimmed.json
//
// What is mended: members that `nullable` stands beside without a `type` (the validator then refuses the schema, and Prism checks nothing
// and says so nowhere); the media type that GitHub asks its callers to accept; vendor members, which only cost time; 304, which GitHub answers to
// any GET whose asker has the answer already, and describes of some.
"use strict";
const whole = require("@octokit/openapi/generated/api.github.com.json");

const kept = [
  /^\/app(\/.*)?$/,
  /^\/installation\/.*/,
  /^\/(user|rate_limit)$/,
  /^\/users\/\{username\}$/,
  /^\/repos\/\{owner\}\/\{repo\}$/,
  /^\/repos\/\{owner\}\/\{repo\}\/(branches|check-runs|check-suites|collaborators|commits|compare|contents|git|installation|issues|labels|merges|pulls|statuses)(\/.*)?$/,
];

function mended(node) {
  if (Array.isArray(node)) return node.map(mended);
  if (node === null || typeof node !== "object") return node;
  const out = {};
  for (const [name, value] of Object.entries(node)) {
    if (name !== "x-octokit" && name !== "x-github" && name !== "x-github-breaking-changes") out[name] = mended(value);
  }
  if (out.nullable === true && typeof out.type !== "string") {
    delete out.nullable;
    // "all of" several things and nothing as well: one of them is what GitHub means.
    if (out.allOf) {
      out.anyOf = out.allOf;
      delete out.allOf;
    }
    for (const word of ["anyOf", "oneOf"]) if (out[word]) out[word] = [...out[word], { enum: [null] }];
  }
  return out;
}

const target = (pointer) =>
  pointer.slice(2).split("/").reduce((node, part) => node[part.replace(/~1/g, "/").replace(/~0/g, "~")], whole);

const components = {};
function collect(node) {
  if (node === null || typeof node !== "object") return;
  if (typeof node.$ref === "string") {
    const [, , kind, name] = node.$ref.split("/");
    components[kind] ??= {};
    if (!(name in components[kind])) {
      components[kind][name] = mended(target(node.$ref));
      collect(components[kind][name]);
    }
  }
  // Examples are never checked, and some of GitHub's are malformed.
  delete node.examples;
  const json = node.content?.["application/json"];
  if (json && !node.content["application/vnd.github+json"]) node.content["application/vnd.github+json"] = json;
  for (const value of Object.values(node)) collect(value);
}

const paths = {};
for (const [path, operations] of Object.entries(whole.paths)) {
  if (!kept.some((rule) => rule.test(path))) continue;
  paths[path] = mended(operations);
  if (paths[path].get) paths[path].get.responses["304"] ??= { description: "Not modified" };
}
collect(paths);
process.stdout.write(JSON.stringify({ openapi: whole.openapi, info: whole.info, servers: whole.servers, paths, components }));
