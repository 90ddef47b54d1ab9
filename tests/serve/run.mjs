// Runs the browser's modules on cases from standard input, one JSON a line, and answers with one each.
// Arrays are { type, data } with base64 of their bytes.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
const types = { Float32Array, Int32Array, Uint8Array };
const folder = pathToFileURL(process.argv[2] + "/");
const decode = (_, value) => {
  if (!value || !value.type) return value;
  const bytes = Buffer.from(value.data, "base64");
  return new types[value.type](bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
};
const encode = (_, value) => ArrayBuffer.isView(value)
  ? { type: value.constructor.name, data: Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("base64") } : value;
for await (const line of createInterface({ input: process.stdin })) {
  const { module, name, given } = JSON.parse(line, decode);
  const call = (await import(new URL(module, folder)))[name];
  const start = performance.now(), answer = await call(...given);
  console.log(JSON.stringify({ answer, ms: performance.now() - start }, encode));
}
