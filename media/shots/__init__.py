"""Where one shot ends and the next begins: cuts, fades and dissolves, from one small picture per frame."""
