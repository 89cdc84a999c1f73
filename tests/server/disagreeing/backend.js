// A back end that reads paths in its own way: `node backend.js express|whatwg OPERATIONS.json`.
//
// It knows every operation of Immich, and believes whatever a request says: method overrides, rewritten URLs and any
// credential. What it understood of each request it tells on a second port, drained with each read. The first line on
// stdout says which ports it got.
const { readFileSync } = require("node:fs");
const http = require("node:http");
const querystring = require("node:querystring");
const express = require("express");

const [mode, operationsFile] = process.argv.slice(2);
const operations = JSON.parse(readFileSync(operationsFile, "utf8"));
let hits = [];

const OVERRIDES = ["x-http-method-override", "x-http-method", "x-method-override"];
const REWRITES = ["x-original-url", "x-rewrite-url", "x-original-uri"];

function believed(request) {
  const first = (names) => names.map((name) => request.headers[name]).find(Boolean);
  return { method: (first(OVERRIDES) ?? request.method).toUpperCase(), url: first(REWRITES) ?? request.url };
}

function record(request, operation, queries) {
  hits.push({
    method: request.method,
    target: request.recordedTarget,
    headers: request.rawHeaders,
    operation,
    queries: queries.map((query) => Object.entries(query)),
  });
}

function expressHandler() {
  const app = express();
  app.set("query parser", "extended");
  app.use((request, response, next) => {
    const { method, url } = believed(request);
    request.method = method;
    request.url = url;
    next();
  });
  const answer = (name) => (request, response) => {
    const text = request.url.split("?").slice(1).join("?");
    record(request, name, [request.query, querystring.parse(text)]);
    response.send("immich");
  };
  for (const { name, method, path } of operations) {
    app[method.toLowerCase()](path.replace(/\{(\w+)\}/g, ":$1"), answer(name));
  }
  app.use(answer(""));
  app.use((problem, request, response, next) => {
    record(request, "", []);
    response.status(400).send(problem.message);
  });
  return app;
}

function whatwgHandler() {
  const routes = operations.map(({ name, method, path }) => ({
    name,
    method,
    pattern: new RegExp(`^${path.replace(/\{\w+\}/g, "[^/]+")}/?$`, "i"),
  }));
  return (request, response) => {
    const { method, url } = believed(request);
    let operation = "";
    let queries = [];
    try {
      const { pathname, searchParams } = new URL(url, "http://immich");
      const found = routes.find((route) => route.method === method && route.pattern.test(pathname));
      operation = found?.name ?? "";
      const query = {};
      for (const name of searchParams.keys()) {
        const values = searchParams.getAll(name);
        query[name] = values.length === 1 ? values[0] : values;
      }
      queries = [query];
    } catch (problem) {
      response.statusCode = 400;
    }
    record(request, operation, queries);
    response.end("immich");
  };
}

const handler = { express: expressHandler, whatwg: whatwgHandler }[mode]();
const server = http.createServer((request, response) => {
  request.recordedTarget = request.url;
  request.resume();
  handler(request, response);
});
server.on("upgrade", (request, socket) => {
  request.recordedTarget = request.url;
  record(request, "upgrade", []);
  socket.end("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
});
const control = http.createServer((request, response) => {
  response.end(JSON.stringify(hits));
  hits = [];
});
server.listen(0, "127.0.0.1", () =>
  control.listen(0, "127.0.0.1", () =>
    console.log(JSON.stringify({ port: server.address().port, control: control.address().port })),
  ),
);
