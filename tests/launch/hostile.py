"""What no script, file name or manifest may ever execute or trip over. `CANARY` is created by what executes."""

from __future__ import annotations

CANARY = "canary"

PAYLOADS = [
    f"$(touch {CANARY})",
    f"`touch {CANARY}`",
    f"; touch {CANARY};",
    f"&& touch {CANARY}",
    f"| touch {CANARY}",
    f"a\ntouch {CANARY}\nb",
    f"a\r\ntouch {CANARY}",
    f"'; touch {CANARY}; '",
    f'"; touch {CANARY}; "',
    f"\\'; touch {CANARY}; \\'",
    f"$'\\n'touch {CANARY}",
    f"${{IFS}}touch${{IFS}}{CANARY}",
    f"<(touch {CANARY})",
    f">{CANARY}",
    f">>{CANARY} x",
    f"x & touch {CANARY} &",
    f"EOF\ntouch {CANARY}\nEOF",
    f"#SBATCH --wrap=touch {CANARY}",
    f"\n#SBATCH --output={CANARY}",
    f"*) touch {CANARY} ;; (x",
    f";; esac; touch {CANARY}; case x in x",
    f"}}; touch {CANARY}; x() {{",
    f"{{{{ cycler.__init__.__globals__.os.system('touch {CANARY}') }}}}",
    f"{{% for x in ().__class__.__base__.__subclasses__() %}}{CANARY}{{% endfor %}}",
    f"!!python/object/apply:os.system ['touch {CANARY}']",
    f"&a [*a, *a] # touch {CANARY}",
    f"- touch {CANARY}\n- x: y",
    "$(SET) $(RESTART) $$(SET) $$ $HOME ${HOME} ~",
    "%j %A_%a %% %",
    "-rf", "--wrap=x", "-oProxyCommand=x",
    "a b", "  ", "tab\there", "quote\"inside", "it's", "back\\slash", "\\", "!history", "#comment",
    "é ü 漢字 🚀", "\u202egnp.exe", "a:b", "yes", "null", "1e3", "[x]", "{x: y}", "a" * 300,
]  # fmt: skip

PLACES = ("name", "run_dir", "environment", "command")
