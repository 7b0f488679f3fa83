"""Makes rendered.json: what Jinja2 makes of each chat template for each conversation of conversations.json.

    pip install jinja2==3.1.6 gguf
    python render.py TEMPLATE.jinja... MODEL.gguf... > rendered.json

The settings are those of the transformers library, whose users the templates are written for. Where a template fails for another reason than its own
raise_exception, it is rendered once more with what it was apparently written for: an empty list of tools instead of none, arguments of tool calls as JSON
text instead of an object, lists and dicts that may be changed.
"""

import datetime
import hashlib
import json
import os
import sys

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

here = os.path.dirname(os.path.abspath(__file__))
data = json.load(open(os.path.join(here, "conversations.json"), encoding="utf-8"))
now = datetime.datetime.fromisoformat(data["now"].replace("Z", "+00:00"))


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


class Raised(jinja2.exceptions.TemplateError):
    pass


def raise_exception(message):
    raise Raised(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment(kind):
    env = kind(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda fmt: now.strftime(fmt)
    return env


def once(env, source, case, no_tools, text_arguments):
    # Templates may change what they are given, so each gets its own copy.
    messages = json.loads(json.dumps(case["messages"]))
    if text_arguments:
        for m in messages:
            for call in m.get("tool_calls", []):
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False, separators=(",", ":"))
    return env.from_string(source).render(
        messages=messages,
        tools=json.loads(json.dumps(data["tools"])) if case.get("tools") else no_tools,
        documents=None,
        add_generation_prompt=case["generate"],
        bos_token=data["bos"],
        eos_token=data["eos"],
        **case.get("extra", {}),
    )


def render(source, case):
    for env in environment(ImmutableSandboxedEnvironment), environment(SandboxedEnvironment):
        for no_tools in None, []:
            for text_arguments in False, True:
                try:
                    return once(env, source, case, no_tools, text_arguments)
                except Raised as e:
                    return {"raised": str(e)}
                except Exception as e:
                    failure = type(e).__name__ + ": " + str(e)
    return {"failure": failure}


def template(path):
    if not path.endswith(".gguf"):
        return open(path, encoding="utf-8", newline="").read()
    import gguf

    return gguf.GGUFReader(path).fields["tokenizer.chat_template"].contents()


out = {}
for path in sorted(sys.argv[1:], key=os.path.basename):
    source = template(path)
    texts = {c["name"]: render(source, c) for c in data["cases"]}
    out[os.path.basename(path)] = {"sha256": hashlib.sha256(source.encode()).hexdigest(), "texts": texts}
json.dump(out, sys.stdout, ensure_ascii=False, indent=0)
print()
