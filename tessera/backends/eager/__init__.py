"""Operations through torch, one by one."""
